"""The panel's widgets and their places; what they do is in UGMCLAssist.py.

Widgets are set by their properties (`label.text = ...`), as Slicer's Python binding of Qt has them.
"""

from __future__ import annotations

from typing import Any

import qt

PERCENT = 100
THRESHOLD, OPACITY = 10, 60
"""Where the sliders start, in percent: 0.1 is where the server's lowest band of uncertainty begins."""


class Panel:
    """Everything the reader sees of the module, but the segment editor, which goes into `editor_place`."""

    def __init__(self) -> None:
        self.root = qt.QWidget()
        self._column = qt.QVBoxLayout(self.root)
        self._add_server()
        self._add_case()
        self._add_uncertainty()
        self._add_label()
        self._column.addStretch(1)

    def set_busy(self, busy: bool) -> None:
        """While a request runs, nothing that starts another can be pressed."""
        for button in (self.connect_button, self.next_button, self.segment, self.skip, self.submit):
            button.enabled = not busy

    @property
    def threshold(self) -> float:
        """In [0, 1]."""
        return float(self.threshold_slider.value) / PERCENT

    @property
    def opacity(self) -> float:
        """In [0, 1]."""
        return float(self.opacity_slider.value) / PERCENT

    def _add_server(self) -> None:
        form = self._group("Server")
        self.url, self.reader = qt.QLineEdit(), qt.QLineEdit()
        self.url.toolTip = "Address of ugmcl-assist, such as http://127.0.0.1:8000"
        self.reader.toolTip = "Your name: cases are leased to it, and labels are kept under it"
        self.connect_button = _button("Connect", "Use this server from now on")
        form.addRow("Address", self.url)
        form.addRow("Reader", self.reader)
        form.addRow(self.connect_button)
        self.learning = _text()
        self.round_progress = qt.QProgressBar()
        self.round_progress.maximum = PERCENT
        self.round_progress.visible = False
        form.addRow(self.learning)
        form.addRow(self.round_progress)

    def _add_case(self) -> None:
        form = self._group("Case")
        self.next_button = _button("Next most uncertain", "Open the case that the model is least sure of")
        self.segment = _button("Segment", "Let the model segment the case and show where it is unsure")
        self.case_text = _text()
        form.addRow(self.next_button)
        form.addRow(self.case_text)
        form.addRow(self.segment)
        self.message = _text()
        form.addRow(self.message)

    def _add_uncertainty(self) -> None:
        form = self._group("Uncertainty")
        self.threshold_slider = _slider(THRESHOLD, "Hide what is less unsure than this")
        self.opacity_slider = _slider(OPACITY, "How much the colors cover the scan")
        form.addRow("Threshold", self.threshold_slider)
        form.addRow("Opacity", self.opacity_slider)
        self.previous_slice = _button("Previous", "Back to the slice before, which is less sure")
        self.next_slice = _button("Next most uncertain slice", "The next slice in order of uncertainty")
        form.addRow(_beside(self.previous_slice, self.next_slice))
        self.place_text = _text()
        form.addRow(self.place_text)

    def _add_label(self) -> None:
        form = self._group("Label")
        self.editor_place = qt.QVBoxLayout()
        form.addRow(self.editor_place)
        self.comment = qt.QLineEdit()
        self.comment.toolTip = "Kept with the label, or with the skipped case as the reason"
        form.addRow("Comment", self.comment)
        self.submit = _button("Submit label", "Store the segmentation as your label; a training round starts")
        self.skip = _button("Skip case", "Give the case back, with the comment as the reason")
        form.addRow(_beside(self.submit, self.skip))

    def _group(self, title: str) -> Any:
        group = qt.QGroupBox(title)
        self._column.addWidget(group)
        return qt.QFormLayout(group)


def _button(text: str, tip: str) -> Any:
    button = qt.QPushButton(text)
    button.toolTip = tip
    return button


def _text() -> Any:
    label = qt.QLabel()
    label.wordWrap = True
    return label


def _slider(value: int, tip: str) -> Any:
    slider = qt.QSlider(qt.Qt.Horizontal)
    slider.minimum, slider.maximum, slider.value = 0, PERCENT, value
    slider.toolTip = tip
    return slider


def _beside(*widgets: Any) -> Any:
    row = qt.QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row
