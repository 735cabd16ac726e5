// What the panel can do: ask the server, and bring its answers to OHIF's images. Knows no DOM of the panel.

import * as api from './api.js';
import { carried, positionOf } from './grids.js';
import { HeatOverlay } from './heat.js';
import { fingerprint, gridOf, putLabel, segmentationOf, takeLabel } from './labelmap.js';
import { readNrrd, writeNrrd } from './nrrd.js';
import * as pacs from './pacs.js';
import { rankedSlices } from './slices.js';

const LISTED = 50;
const HEARTBEAT_MS = 5 * 60 * 1000;
const BUSY_POLL_MS = 2000;
const IDLE_POLL_MS = 15000;
const COMPARE_MS = 300;
const READER = 'ugmcl-reader';

/** Tells its listeners (`change` events) whenever something it knows is new. */
export class Assistant extends EventTarget {
  constructor(services, commandsManager) {
    super();
    this.services = services;
    this.commandsManager = commandsManager;
    this.heat = new HeatOverlay(window.cornerstone);
    this.cases = [];
    this.described = new Map();
    this.total = null;
    this.current = null;
    this.result = null;
    this.place = -1;
    this.kept = null;
    this.isEdited = false;
    this.message = { text: '', isError: false };
    this.busy = '';
    this.status = null;
    this.watchEdits();
    this.watchSeries();
    this.poll();
    setInterval(() => this.stayAlive(), HEARTBEAT_MS);
  }

  get reader() {
    let name = localStorage.getItem(READER);
    if (!name) {
      name = `ohif-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
      localStorage.setItem(READER, name);
    }
    return name;
  }

  set reader(name) {
    const plain = name.trim().slice(0, 100);
    if (plain) localStorage.setItem(READER, plain);
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event('change'));
  }

  say(text, isError = false) {
    this.message = { text, isError };
    this.changed();
  }

  /** Do one thing at a time, and show what went wrong as the server says it. */
  async run(what, work) {
    if (this.busy) return;
    this.busy = what;
    this.say(`${what} …`);
    try {
      this.say(await work() ?? '');
    } catch (error) {
      this.say(error.message || String(error), true);
    } finally {
      this.busy = '';
      this.changed();
    }
  }

  // --- the series on screen

  shown() {
    const { viewportGridService, displaySetService } = this.services;
    const { activeViewportId, viewports } = viewportGridService.getState();
    const uids = viewports.get(activeViewportId)?.displaySetInstanceUIDs ?? [];
    const sets = uids.map((uid) => displaySetService.getDisplaySetByUID(uid));
    const displaySet = sets.find((one) => one?.imageIds?.length && one.Modality !== 'SEG') ?? null;
    return { displaySet, viewportId: activeViewportId };
  }

  requireShown() {
    const found = this.shown();
    if (!found.displaySet) throw new Error('No series is on screen yet; open one from the worklist.');
    return found;
  }

  watchSeries() {
    const { viewportGridService: grid, cornerstoneViewportService: images } = this.services;
    const look = () => this.seriesShown();
    grid.subscribe(grid.EVENTS.GRID_STATE_CHANGED, look);
    grid.subscribe(grid.EVENTS.ACTIVE_VIEWPORT_ID_CHANGED, look);
    images.subscribe(images.EVENTS.VIEWPORT_DATA_CHANGED, look);
    look();
  }

  async seriesShown() {
    const series = this.shown().displaySet?.SeriesInstanceUID ?? null;
    if (series === this.series) return;
    this.series = series;
    this.current = null;
    this.forgetResult();
    this.changed();
    this.lookup = series && this.caseOf(series);
    if (!series) return;
    const found = await this.lookup.catch(() => null);  // said when the case is asked for
    if (this.series === series) this.current = found;
    this.changed();
  }

  listed(series) {
    return this.cases.find((one) => one.series_instance_uid === series || one.id === series);
  }

  /** The case that a series is; null where it is none of this project. */
  async caseOf(series) {
    const listed = this.listed(series);
    if (listed) return listed;
    try {
      const info = await api.imageInfo(series);  // a case from a PACS has its series for an id
      return { id: series, series_instance_uid: series, study_instance_uid: info.study_instance_uid };
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  /** A series that was opened while the PACS still received it is a case only later. */
  async findCase() {
    const { series } = this;
    if (!series || this.current) return;
    const found = this.listed(series) ?? (await this.caseOf(series).catch(() => null));
    if (this.series === series) this.current ??= found;
  }

  async requireCase() {
    const { displaySet } = this.requireShown();
    this.seriesShown();
    const found = (await this.lookup) ?? (await this.caseOf(displaySet.SeriesInstanceUID));  // it may be a case by now
    if (!found) {
      throw new Error('The series on screen is no case of this project; open one from the worklist.');
    }
    return found;
  }

  forgetResult() {
    this.result = null;
    this.kept = null;
    this.place = -1;
    this.isEdited = false;
    this.heat.show(null);
  }

  // --- worklist

  async refreshWorklist() {
    const page = await api.worklist(LISTED);
    this.cases = page.cases;
    this.total = page.total;
    if (this.series) this.current ??= this.listed(this.series) ?? null;
    this.changed();
    await this.describe();
  }

  /** What the PACS says of the listed series; a list of UIDs says nothing to a reader. */
  async describe() {
    const unknown = this.cases.map((one) => one.series_instance_uid).filter((uid) => uid && !this.described.has(uid));
    if (!unknown.length) return;
    const found = await pacs.series(unknown).catch(() => []);  // the list works without
    found.forEach(({ series, text }) => this.described.set(series, text));
    this.changed();
  }

  nameOf(entry) {
    return this.described.get(entry.series_instance_uid) ?? entry.id;
  }

  /** Bring a case to the screen: in place when its study is open, else by opening the study. */
  async open(entry) {
    const { displaySetService, viewportGridService } = this.services;
    const series = entry.series_instance_uid ?? entry.id;
    const loaded = displaySetService.getActiveDisplaySets()
      .find((one) => one.SeriesInstanceUID === series && one.imageIds?.length);
    if (loaded) {
      const { activeViewportId } = viewportGridService.getState();
      viewportGridService.setDisplaySetsForViewports([
        { viewportId: activeViewportId, displaySetInstanceUIDs: [loaded.displaySetInstanceUID] },
      ]);
      return;
    }
    const study = entry.study_instance_uid ?? (await pacs.series([series]))[0]?.study;
    if (!study) throw new Error('The PACS does not know the series of this case any more.');
    const query = new URLSearchParams({ StudyInstanceUIDs: study, initialSeriesInstanceUID: series });
    window.location.assign(`${window.PUBLIC_URL}ugmcl?${query}`);
  }

  openNext() {
    return this.run('Asking for the next case', async () => {
      if (!this.mayLeave()) return 'Your changes are still here.';
      const next = await api.nextCase(this.reader);
      if (!next.id) return 'Every case is labeled.';
      const listed = this.cases.find((one) => one.id === next.id);
      await this.open({ ...next, ...listed });
      return '';
    });
  }

  openListed(entry) {
    return this.run('Opening', async () => {
      if (!this.mayLeave()) return 'Your changes are still here.';
      await this.open(entry);
      return '';
    });
  }

  mayLeave() {
    return !this.isEdited || window.confirm('Changes to this segmentation were not submitted. Leave them?');
  }

  // --- segmentation and uncertainty

  segment() {
    return this.run('Segmenting', async () => {
      const { displaySet, viewportId } = this.requireShown();
      const { id } = await this.requireCase();
      if (this.isEdited && !window.confirm('Replace your changes by the model\'s segmentation?')) {
        return 'Your changes are still here.';
      }
      const answer = await api.segment(id, this.reader);
      const [label, map] = await Promise.all([readNrrd(answer.label), readNrrd(answer.uncertainty)]);
      if (this.shown().displaySet !== displaySet) return 'Another series is on screen now; press Segment again.';
      const segmentation = await putLabel(this.services, displaySet, viewportId, label, answer.params.label_names);
      this.kept = fingerprint(takeLabel(this.services, displaySet, segmentation).values);
      this.isEdited = false;
      const grid = gridOf(displaySet);
      const values = carried(map.values, map.grid, grid);
      this.heat.show({ grid, values, frame: displaySet.FrameOfReferenceUID ?? frameOf(displaySet) });
      this.result = { params: answer.params, grid, slices: rankedSlices(grid, values) };
      this.place = -1;
      const score = answer.params.uncertainty.score.toFixed(3);
      return `Segmented by ${answer.params.model_version}; uncertainty ${score}.`;
    });
  }

  /** Go to the least sure slice; asked again, to the next one. */
  jump() {
    return this.run('Looking', async () => {
      if (!this.result) throw new Error('There is no uncertainty yet; press Segment first.');
      this.requireShown();
      const { slices, grid } = this.result;
      this.place = (this.place + 1) % slices.length;
      const { index, score } = slices[this.place];
      const center = positionOf(grid, [...[0, 1].map((axis) => Math.floor(grid.size[axis] / 2)), index]);
      // All that show the map: among three planes, one is the slice's own.
      for (const viewport of this.heat.viewportsOfMap()) {
        if (viewport.type === 'stack') await viewport.setImageIdIndex(index);
        else viewport.jumpToWorld?.(center);
        viewport.render();
      }
      return `Slice ${index + 1} of ${grid.size[2]}: mean uncertainty ${score.toFixed(3)}, `
        + `number ${this.place + 1} of ${slices.length}.`;
    });
  }

  watchEdits() {
    const { Events } = window.cornerstoneTools.Enums;
    let soon;
    window.cornerstone.eventTarget.addEventListener(Events.SEGMENTATION_DATA_MODIFIED, () => {
      clearTimeout(soon);
      soon = setTimeout(() => this.compareWithKept(), COMPARE_MS);
    });
    window.addEventListener('beforeunload', (event) => {
      if (this.isEdited && !this.busy) event.preventDefault();
    });
  }

  /** Notice changes by the voxels: OHIF tells of changes when it only draws a segmentation in other planes. */
  compareWithKept() {
    const { displaySet, viewportId } = this.shown();
    const segmentation = displaySet && segmentationOf(this.services, displaySet, viewportId);
    if (!segmentation || this.busy) return;
    let values;
    try {
      ({ values } = takeLabel(this.services, displaySet, segmentation));
    } catch {
      return;  // it lies on other images; Submit says so
    }
    this.isEdited = this.kept === null ? values.some(Boolean) : fingerprint(values) !== this.kept;
    this.changed();
  }

  submit() {
    return this.run('Submitting', async () => {
      const { displaySet, viewportId } = this.requireShown();
      const { id } = await this.requireCase();
      const segmentation = segmentationOf(this.services, displaySet, viewportId);
      if (!segmentation) throw new Error('There is no segmentation to submit; press Segment, or draw one.');
      const { grid, values, names } = takeLabel(this.services, displaySet, segmentation);
      const params = { label_info: names, client_id: this.reader, tool: 'OHIF' };
      if (this.result) params.model_version = this.result.params.model_version;
      if (!values.some(Boolean)) {
        if (!window.confirm('The segmentation is empty. Submit it as "nothing to segment here"?')) {
          return 'Nothing was submitted.';
        }
        params.no_finding = true;
      }
      await api.submit(id, await writeNrrd(grid, values), params);
      this.kept = fingerprint(values);
      this.isEdited = false;
      await Promise.all([this.refreshWorklist(), this.refreshStatus()]);
      return 'Submitted. The next round learns from it.';
    });
  }

  // --- status

  async refreshStatus() {
    const [rounds, models, stats] = await Promise.all([api.rounds(), api.models(), api.stats()]);
    const running = rounds.find((one) => one.status === 'running') ?? rounds.find((one) => one.status === 'queued');
    const before = this.status;
    this.status = {
      version: models.find((one) => one.published)?.version ?? null,
      rounds: rounds.filter((one) => one.status === 'done').length,
      labels: stats.completed,
      scans: stats.total,
      running: running ?? null,
      last: rounds[rounds.length - 1] ?? null,
    };
    const differs = (key) => before && this.status[key] !== before[key];
    if (differs('version')) {
      this.message = { text: `Another model is live: ${this.status.version}.`, isError: false };
    }
    // Other readers submit labels, and the PACS receives scans, while this page is open.
    if (['version', 'labels', 'scans'].some(differs)) await this.refreshWorklist();
    await this.findCase();
    this.changed();
  }

  async poll() {
    let wait = IDLE_POLL_MS;
    if (!document.hidden) {
      try {
        if (this.total === null) await this.refreshWorklist();
        await this.refreshStatus();
        this.isLost = false;
        if (this.status.running) wait = BUSY_POLL_MS;
      } catch (error) {
        this.isLost = true;
        this.say(error.message, true);
      }
    }
    setTimeout(() => this.poll(), wait);
  }

  stayAlive() {
    // Refused when the case is not leased to this reader, which is no fault: it was opened from the list.
    if (this.current && !document.hidden) api.heartbeat(this.current.id, this.reader).catch(() => {});
  }
}

const frameOf = (displaySet) =>
  window.cornerstone.metaData.get('imagePlaneModule', displaySet.imageIds[0])?.frameOfReferenceUID;
