"""UGMCL Assist for 3D Slicer: the most uncertain case, its segmentation, and where the model is unsure.

The widgets are joined here to what they do; all else is in UGMCLAssistLib.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget
from UGMCLAssistLib.background import BackgroundWork
from UGMCLAssistLib.client import Segmentation
from UGMCLAssistLib.errors import AssistError
from UGMCLAssistLib.panel import PERCENT, Panel
from UGMCLAssistLib.scene import CaseScene
from UGMCLAssistLib.session import AssistSession, FetchedCase, News, PreparedLabel

TICK_MS = 50
LOOK_S, IDLE_LOOK_S = 3.0, 10.0
"""Seconds between two looks at the rounds, while one runs and while none does."""
URL, READER = "UGMCLAssist/url", "UGMCLAssist/reader"


class UGMCLAssist(ScriptedLoadableModule):
    """What Slicer's list of modules says."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "UGMCL Assist"
        parent.categories = ["Active Learning"]
        parent.dependencies = ["Volumes", "Segmentations", "SegmentEditor"]
        parent.contributors = ["The ugmcl-assist developers"]
        parent.helpText = (
            "Labels the cases that the model is least sure of, with its segmentation to start from and its "
            "uncertainty as colors over the scan. Needs a server of ugmcl-assist. Research use only."
        )
        parent.acknowledgementText = (
            "Method: UG-MCL, Zhang et al., Artificial Intelligence in Medicine, 2023."
        )


class UGMCLAssistWidget(ScriptedLoadableModuleWidget):
    """The panel at work."""

    def setup(self) -> None:
        """Called by Slicer when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        logics = slicer.modules.volumes.logic(), slicer.modules.segmentations.logic()
        self.session = AssistSession(CaseScene(slicer.mrmlScene, *logics))
        self.work, self.looking = BackgroundWork(), BackgroundWork()
        self.connected, self.looked_at, self.look_s, self.version = False, 0.0, LOOK_S, ""
        self.panel = Panel()
        self.layout.addWidget(self.panel.root)
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(slicer.mrmlScene)
        self.editor.setMRMLSegmentEditorNode(self.session.scene.editor_node())
        self.panel.editor_place.addWidget(self.editor)
        settings = qt.QSettings()
        self.panel.url.text = settings.value(URL) or "http://127.0.0.1:8000"
        self.panel.reader.text = settings.value(READER) or ""
        self.join_buttons()
        self.timer = qt.QTimer()
        self.timer.interval = TICK_MS
        self.timer.timeout.connect(self.tick)
        self.timer.start()

    def join_buttons(self) -> None:
        """Connect every widget to what it does."""
        panel = self.panel
        panel.connect_button.clicked.connect(self.on_connect)
        panel.next_button.clicked.connect(self.on_next)
        panel.segment.clicked.connect(self.on_segment)
        panel.submit.clicked.connect(self.on_submit)
        panel.skip.clicked.connect(self.on_skip)
        panel.next_slice.clicked.connect(self.on_next_slice)
        panel.previous_slice.clicked.connect(self.on_previous_slice)
        panel.threshold_slider.valueChanged.connect(self.on_threshold)
        panel.opacity_slider.valueChanged.connect(self.on_opacity)

    def enter(self) -> None:
        """Called when the module is shown: closing the scene takes the editor's node away."""
        self.editor.setMRMLSegmentEditorNode(self.session.scene.editor_node())

    def exit(self) -> None:
        """Called when another module is shown: no brush may stay active."""
        self.editor.setActiveEffect(None)

    def cleanup(self) -> None:
        """Called when the module is closed or reloaded."""
        self.timer.stop()
        self.work.forget()
        self.looking.forget()
        self.session.close()

    # --- what runs beside the reader's work

    def tick(self) -> None:
        """Called by the timer: hand over what came in, and look at the rounds now and then."""
        self.work.tick()
        self.looking.tick()
        due = time.monotonic() - self.looked_at >= self.look_s
        if self.connected and due and not self.looking.busy:
            self.looked_at = time.monotonic()
            self.looking.start(self.session.fetch_news, self.show_news, self.show_no_news)

    def show_news(self, news: News) -> None:
        """Say where the learning stands."""
        status = news.status
        self.panel.learning.text = status.text
        self.panel.round_progress.visible = status.running
        self.panel.round_progress.value = round(PERCENT * status.fraction)
        self.look_s = LOOK_S if status.running else IDLE_LOOK_S
        if self.session.take_news(news):
            self.panel.message.text = f"{news.case} is not leased to you any more: another reader may get it."
        if self.version and status.model_version != self.version:
            self.panel.message.text = f"Model {status.model_version} is live now: 'Segment' uses it."
        self.version = status.model_version

    def show_no_news(self, error: Exception) -> None:
        """A look that failed is no reason for a dialog: the next one follows."""
        self.panel.learning.text = str(error)

    # --- the buttons

    def on_connect(self) -> None:
        """Take the address and the name, and look at once."""
        self.guarded(self._connect)

    def _connect(self) -> None:
        moves = self.connected and self.panel.url.text.strip().rstrip("/") != self.session.client.url
        if moves and not self.may_lose_edits("go to another server"):
            return
        self.session.connect(self.panel.url.text, self.panel.reader.text)
        settings = qt.QSettings()
        settings.setValue(URL, self.panel.url.text)
        settings.setValue(READER, self.panel.reader.text)
        self.connected, self.looked_at = True, 0.0
        self.looking.forget()

    def on_next(self) -> None:
        """Fetch the most uncertain case and open it."""
        if self.may_lose_edits("open the next case"):
            self.begin("Fetching the next case ...", self.session.fetch_next, self.show_case)

    def show_case(self, fetched: FetchedCase) -> None:
        """Open what was fetched."""
        self.session.open_case(fetched)
        score = fetched.answer.get("score")
        self.panel.case_text.text = fetched.id + ("" if score is None else f", uncertainty {score:.2f}")
        self.panel.message.text = self.panel.place_text.text = self.panel.comment.text = ""

    def on_segment(self) -> None:
        """Have the case segmented."""
        if self.may_lose_edits("draw the model's segmentation instead"):
            self.begin("Segmenting ...", self.session.fetch_segmentation, self.show_segmentation)

    def show_segmentation(self, reply: Segmentation) -> None:
        """Draw the reply, and go to its least sure slice."""
        self.session.show_segmentation(reply, self.panel.threshold, self.panel.opacity)
        self.panel.message.text = f"Segmented by {self.session.model_version}."
        self.panel.place_text.text = self.session.place_text

    def on_submit(self) -> None:
        """Send the label; the segments stay as they are."""
        self.guarded(self._submit)

    def _submit(self) -> None:
        scene = self.session.scene
        empty = scene.segments.is_empty(scene.segmentation, scene.image)
        if empty and not slicer.util.confirmOkCancelDisplay(
            "The segmentation is empty. Submit that there is nothing to find in this case?"
        ):
            return
        label = self.session.prepare_label(self.panel.comment.text, no_finding=empty)
        self.begin("Submitting ...", lambda: self.send(label), self.show_submitted)

    def send(self, label: PreparedLabel) -> str:
        """In the background."""
        return self.session.send_label(label)

    def show_submitted(self, case: str) -> None:
        """The label is safe."""
        self.session.take_as_submitted()
        self.panel.message.text = f"The label of {case} is stored. Go on with 'Next most uncertain'."
        self.looked_at = 0.0

    def on_skip(self) -> None:
        """Give the case back."""
        reason = self.panel.comment.text
        self.begin("Giving the case back ...", lambda: self.session.skip(reason), self.show_skipped)

    def show_skipped(self, _: None) -> None:
        """The case is not this reader's any more."""
        self.panel.message.text = f"{self.session.case} is skipped. Go on with 'Next most uncertain'."

    def on_next_slice(self) -> None:
        """Go to the next most uncertain slice."""
        self.guarded(lambda: self.step(1))

    def on_previous_slice(self) -> None:
        """Go back one."""
        self.guarded(lambda: self.step(-1))

    def step(self, by: int) -> None:
        """Move the views."""
        self.session.step(by)
        self.panel.place_text.text = self.session.place_text

    def on_threshold(self, _: int) -> None:
        """Called while the slider moves."""
        if self.session.places:
            self.guarded(lambda: self.session.scene.set_threshold(self.panel.threshold))

    def on_opacity(self, _: int) -> None:
        """Called while the slider moves."""
        if self.session.places:
            self.guarded(lambda: self.session.scene.set_opacity(self.panel.opacity))

    # --- how they work

    def begin(self, saying: str, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Start a request; its outcome, or its error as a dialog, comes with a later tick."""

        def finished(result: Any) -> None:
            self.panel.set_busy(False)
            self.guarded(lambda: done(result))

        def failed(error: Exception) -> None:
            self.panel.set_busy(False)
            self.show_error(error)

        def start() -> None:
            self.work.start(work, finished, failed)
            self.panel.message.text = saying
            self.panel.set_busy(True)

        self.guarded(start)

    def guarded(self, action: Callable[[], None]) -> None:
        """Say what the reader should know of instead of failing."""
        try:
            action()
        except AssistError as error:
            self.show_error(error)

    def show_error(self, error: Exception) -> None:
        """Say it in a dialog, and leave it in the panel."""
        said = str(error) if isinstance(error, AssistError) else f"{type(error).__name__}: {error}"
        self.panel.message.text = said
        slicer.util.errorDisplay(said, windowTitle="UGMCL Assist")

    def may_lose_edits(self, wish: str) -> bool:
        """Whether nothing is lost, or the reader says that it may be."""
        return not self.session.scene.has_edits() or slicer.util.confirmOkCancelDisplay(
            f"The segmentation has changes that were not submitted. Discard them and {wish}?"
        )
