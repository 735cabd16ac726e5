// A label in OHIF: put into a labelmap segmentation that OHIF's own tools edit, and read from it.

import { carried, gridOfImages } from './grids.js';

const LABELMAP = 'Labelmap';
// Okabe and Ito's colors, told apart without red-green vision; those that the overlay has come last.
const COLORS = [
  [86, 180, 233], [0, 158, 115], [204, 121, 167], [240, 240, 240], [0, 114, 178], [213, 94, 0], [230, 159, 0],
];

/** The id of our segmentation of a series. */
export const segmentationIdOf = (displaySet) => `ugmcl-${displaySet.SeriesInstanceUID}`;

export const gridOf = (displaySet) => gridOfImages(displaySet.imageIds, window.cornerstone.metaData);

const stateOf = (id) => window.cornerstoneTools.segmentation.state.getSegmentation(id);

/** The segmentation of a series that is shown and edited: ours, or one the reader made. */
export function segmentationOf(services, displaySet, viewportId) {
  const own = segmentationIdOf(displaySet);
  const { segmentationService } = services;
  const shown = segmentationService.getSegmentationRepresentations(viewportId, { type: LABELMAP }) ?? [];
  const active = shown.find((one) => one.active) ?? shown[0];
  if (active) return active.segmentationId;
  return stateOf(own) ? own : null;
}

/** Put a label into our segmentation of a series; makes it when it is not there. Returns its id. */
export async function putLabel(services, displaySet, viewportId, label, names) {
  const { segmentationService } = services;
  const id = segmentationIdOf(displaySet);
  const values = carried(label.values, label.grid, gridOf(displaySet));
  if (!stateOf(id)) {
    const segments = Object.fromEntries(Object.entries(names).map(([name, value], place) =>
      [value, { label: name, active: place === 0 }]));
    await segmentationService.createLabelmapForDisplaySet(displaySet, { segmentationId: id, segments, label: 'UG-MCL' });
  }
  for (const shownIn of viewportsShowing(services, displaySet, viewportId)) {
    const present = segmentationService.getSegmentationRepresentations(shownIn, { segmentationId: id });
    if (!present?.length) {
      await segmentationService.addSegmentationRepresentation(shownIn, { segmentationId: id, type: LABELMAP });
      Object.values(names).forEach((value, place) =>
        segmentationService.setSegmentColor(shownIn, id, value, [...COLORS[place % COLORS.length], 255]));
    }
  }
  const slice = values.length / displaySet.imageIds.length;
  labelImages(id, displaySet).forEach((image, place) => {
    const target = image.voxelManager.getScalarData();
    target.set(values.subarray(place * slice, (place + 1) * slice));
    image.voxelManager.setScalarData?.(target);
  });
  window.cornerstoneTools.segmentation.triggerSegmentationEvents.triggerSegmentationDataModified(id);
  return id;
}

/** {grid, values, names}: the label of a segmentation on the grid of its series. */
export function takeLabel(services, displaySet, id) {
  const grid = gridOf(displaySet);
  const slice = grid.size[0] * grid.size[1];
  const values = new Uint8Array(slice * grid.size[2]);
  labelImages(id, displaySet).forEach((image, place) => {
    values.set(image.voxelManager.getScalarData(), place * slice);
  });
  const { segments } = services.segmentationService.getSegmentation(id);
  const names = Object.values(segments).map(({ label, segmentIndex }) => ({ name: label, idx: segmentIndex }));
  return { grid, values, names };
}

/** A number that changes with any voxel of a label (FNV-1a). */
export function fingerprint(values) {
  let hash = 0x811c9dc5;
  for (let at = 0; at < values.length; at += 1) hash = Math.imul(hash ^ values[at], 0x01000193);
  return hash;
}

/** The labelmap's images in the order of the series' own. */
function labelImages(id, displaySet) {
  const { cache } = window.cornerstone;
  const data = stateOf(id).representationData[LABELMAP];
  const imageIds = data.imageIds ?? cache.getVolume(data.volumeId).imageIds;
  const images = new Map(imageIds.map((one) => {
    const image = cache.getImage(one);
    return [image.referencedImageId, image];
  }));
  const found = displaySet.imageIds.map((one) => images.get(one));
  if (found.some((image) => !image)) {
    throw new Error('This segmentation belongs to other images than the series shown; press Segment first.');
  }
  return found;
}

function viewportsShowing(services, displaySet, first) {
  const { viewports } = services.viewportGridService.getState();
  const showing = [...viewports.values()]
    .filter((viewport) => viewport.displaySetInstanceUIDs?.includes(displaySet.displaySetInstanceUID))
    .map((viewport) => viewport.viewportId);
  return showing.length ? showing : [first];
}
