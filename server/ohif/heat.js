// The uncertainty over the images: a canvas above each viewport that shows the same patient's frame of
// reference, drawn anew whenever the viewport is. It takes any plane, so it follows MPR, zoom and rotation.

import { indexer } from './grids.js';

// matplotlib's "inferno" at 17 equal steps: perceptually uniform, and readable without red-green vision.
const INFERNO = [
  0x000004, 0x0b0724, 0x210c4a, 0x3d0965, 0x57106e, 0x71196e, 0x8a226a, 0xa32c61, 0xbc3754, 0xd24644, 0xe45a31,
  0xf1731d, 0xf98e09, 0xfcac11, 0xf9cb35, 0xf2ea69, 0xfcffa4,
];
const CLASS = 'ugmcl-heat';

/** The color [red, green, blue] of a value in [0, 1]. */
export function color(value) {
  const place = Math.min(Math.max(value, 0), 1) * (INFERNO.length - 1);
  const below = Math.min(Math.floor(place), INFERNO.length - 2);
  const part = place - below;
  return [16, 8, 0].map((shift) => {
    const [a, b] = [(INFERNO[below] >> shift) & 255, (INFERNO[below + 1] >> shift) & 255];
    return Math.round(a + (b - a) * part);
  });
}

/** A CSS gradient of the colors from 0 to 1. */
export const gradient = () =>
  `linear-gradient(to right, ${INFERNO.map((value) => `#${value.toString(16).padStart(6, '0')}`).join(', ')})`;

const TABLE = (() => {
  const table = new Uint8Array(256 * 3);
  for (let value = 0; value < 256; value += 1) table.set(color(value / 255), value * 3);
  return table;
})();

export class HeatOverlay {
  constructor(cornerstone) {
    this.cornerstone = cornerstone;
    this.map = null;
    this.opacity = 0.5;
    this.threshold = 0.3;
    this.isShown = true;
    this.redraw = (event) => this.draw(event.detail.viewportId);
    const { Events } = cornerstone.Enums;
    cornerstone.eventTarget.addEventListener(Events.ELEMENT_ENABLED, (event) => this.follow(event.detail.element));
    this.viewports().forEach((viewport) => this.follow(viewport.element));
  }

  /** Show values in [0, 1] on a grid; null takes the overlay away. */
  show(map) {
    this.map = map && { ...map, index: indexer(map.grid) };
    this.drawAll();
  }

  set(options) {
    Object.assign(this, options);
    this.drawAll();
  }

  viewports() {
    return this.cornerstone.getRenderingEngines().flatMap((engine) => engine.getViewports());
  }

  /** Those whose images lie in the map's frame of reference. */
  viewportsOfMap() {
    return this.viewports().filter((one) => this.map && one.getFrameOfReferenceUID?.() === this.map.frame);
  }

  follow(element) {
    element.removeEventListener(this.cornerstone.Enums.Events.IMAGE_RENDERED, this.redraw);
    element.addEventListener(this.cornerstone.Enums.Events.IMAGE_RENDERED, this.redraw);
  }

  drawAll() {
    this.viewports().forEach((viewport) => this.draw(viewport.id));
  }

  draw(viewportId) {
    const viewport = this.viewports().find((one) => one.id === viewportId);
    const image = viewport?.canvas;
    if (!image?.parentElement) return;
    let canvas = image.parentElement.querySelector(`.${CLASS}`);
    if (!this.isShown || !this.viewportsOfMap().includes(viewport)) {
      canvas?.remove();
      return;
    }
    if (!canvas) {
      canvas = document.createElement('canvas');
      canvas.className = CLASS;
      canvas.setAttribute('aria-hidden', 'true');
      canvas.style.cssText = 'position:absolute;inset:0;width:100%;height:100%;pointer-events:none';
      image.after(canvas);
    }
    canvas.width = image.clientWidth;
    canvas.height = image.clientHeight;
    if (canvas.width && canvas.height) this.paint(canvas, viewport);
  }

  /** Look up the voxel under each pixel; a plane is flat, so three points of it give all others. */
  paint(canvas, viewport) {
    const { width, height } = canvas;
    const { index, grid, values } = this.map;
    const at = (x, y) => index(Array.from(viewport.canvasToWorld([x, y])));
    const corner = at(0, 0);
    const right = at(width, 0).map((value, axis) => (value - corner[axis]) / width);
    const down = at(0, height).map((value, axis) => (value - corner[axis]) / height);
    const context = canvas.getContext('2d');
    const picture = context.createImageData(width, height);
    const pixels = picture.data;
    const [nx, ny, nz] = grid.size;
    const alpha = Math.round(this.opacity * 255);
    for (let y = 0, pixel = 0; y < height; y += 1) {
      // From the middle of a pixel to the nearest voxel: half a step, and half a voxel for the rounding.
      let i = corner[0] + (y + 0.5) * down[0] + 0.5 * right[0] + 0.5;
      let j = corner[1] + (y + 0.5) * down[1] + 0.5 * right[1] + 0.5;
      let k = corner[2] + (y + 0.5) * down[2] + 0.5 * right[2] + 0.5;
      for (let x = 0; x < width; x += 1, pixel += 4, i += right[0], j += right[1], k += right[2]) {
        const [a, b, c] = [Math.floor(i), Math.floor(j), Math.floor(k)];
        if (a < 0 || b < 0 || c < 0 || a >= nx || b >= ny || c >= nz) continue;
        const value = values[a + nx * (b + ny * c)];
        if (!(value >= this.threshold)) continue;
        const entry = Math.min(Math.round(value * 255), 255) * 3;
        pixels[pixel] = TABLE[entry];
        pixels[pixel + 1] = TABLE[entry + 1];
        pixels[pixel + 2] = TABLE[entry + 2];
        pixels[pixel + 3] = alpha;
      }
    }
    context.putImageData(picture, 0, 0);
  }
}
