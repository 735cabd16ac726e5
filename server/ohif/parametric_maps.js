// OHIF's own drawing of Parametric Maps, mended: OHIF 3.13.2 leaves a map undrawn where its first frame comes last.
//
// A volume's values are uploaded in the frame after the one that makes its texture. Where the scan has come in by
// then (slow drawing, fast network), nothing asks for another frame, until the reader touches the image.

/** In every viewport, now and later: the frame that first shows new volumes is followed by another. */
export function drawVolumesTwice(cornerstone) {
  const { Events } = cornerstone.Enums;
  const follow = (element) => element.addEventListener(Events.VOLUME_VIEWPORT_NEW_VOLUME, () => {
    element.addEventListener(Events.IMAGE_RENDERED, () => {
      cornerstone.getEnabledElement(element)?.viewport.render();
    }, { once: true });
  });
  cornerstone.eventTarget.addEventListener(Events.ELEMENT_ENABLED, (event) => follow(event.detail.element));
}
