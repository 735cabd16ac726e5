// The panel: plain DOM around the assistant. Everything is a native control, so the keyboard reaches it.

import { gradient } from './heat.js';

const STYLE = `
.ugmcl { color: #e6ecf5; font-size: 13px; line-height: 1.4; padding: 10px; display: flex; flex-direction: column; gap: 12px; }
.ugmcl h2 { font-size: 12px; font-weight: 600; color: #a9bedb; margin: 0 0 6px; }
.ugmcl button { font: inherit; color: #e6ecf5; background: #1d3557; border: 1px solid #3d6ba8; border-radius: 4px; padding: 6px 8px; text-align: left; }
.ugmcl button:hover:not(:disabled) { background: #2a4d7d; }
.ugmcl button:disabled { color: #8494aa; border-color: #34465e; background: #16263c; cursor: default; }
.ugmcl button.main { background: #2563b0; border-color: #6aa3e8; }
.ugmcl :is(button, input):focus-visible { outline: 2px solid #ffd166; outline-offset: 1px; }
.ugmcl .actions { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.ugmcl .actions .wide { grid-column: 1 / -1; }
.ugmcl-slider { display: grid; grid-template-columns: 5.5em 1fr 3em; gap: 8px; align-items: center; }
.ugmcl-slider output { text-align: right; font-variant-numeric: tabular-nums; }
.ugmcl input[type=range] { width: 100%; accent-color: #6aa3e8; }
.ugmcl input[type=text] { font: inherit; color: #e6ecf5; background: #0d1b2e; border: 1px solid #3d6ba8; border-radius: 4px; padding: 3px 6px; width: 100%; }
.ugmcl .scale { height: 8px; border-radius: 2px; background: ${gradient()}; }
.ugmcl .ends { display: flex; justify-content: space-between; font-size: 11px; color: #a9bedb; }
.ugmcl .message { min-height: 2.8em; border-left: 3px solid #3d6ba8; padding: 2px 8px; overflow-wrap: anywhere; }
.ugmcl .message.error { border-color: #ffb000; color: #ffd98a; }
.ugmcl ol { list-style: none; margin: 0; padding: 0; max-height: 32vh; overflow-y: auto; display: flex; flex-direction: column; gap: 3px; }
.ugmcl li button { width: 100%; display: grid; grid-template-columns: 1fr auto; gap: 8px; background: #12233a; border-color: transparent; padding: 4px 8px; }
.ugmcl li button[aria-current=true] { border-color: #ffd166; background: #1d3557; }
.ugmcl li .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ugmcl li .score, .ugmcl .status { font-variant-numeric: tabular-nums; }
.ugmcl dl.status { display: grid; grid-template-columns: 5.5em 1fr; gap: 2px 8px; margin: 0; }
.ugmcl dt { color: #a9bedb; }
.ugmcl dd { margin: 0; overflow-wrap: anywhere; }
.ugmcl progress { width: 100%; height: 8px; accent-color: #6aa3e8; }
.ugmcl .note { font-size: 11px; color: #a9bedb; margin: 0; }
`;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children);
  return node;
}

/** Draw the panel into `place` and keep it true to what the assistant knows, as long as it is on the page. */
export function drawPanel(place, assistant) {
  const parts = [actions(assistant), message(assistant), heatControls(assistant), worklist(assistant), status(assistant)];
  const panel = make('section', { class: 'ugmcl', 'aria-label': 'UG-MCL' }, make('style', {}, STYLE),
    ...parts.map((part) => part.node), make('p', { class: 'note' }, 'For research, not a medical device.'));
  // OHIF's shortcuts take the arrow keys, which move our sliders.
  panel.addEventListener('keydown', (event) => event.stopPropagation());
  place.append(panel);
  const update = () => {
    if (!place.isConnected) assistant.removeEventListener('change', update);
    else parts.forEach((part) => part.update());
  };
  assistant.addEventListener('change', update);
  update();
}

function actions(assistant) {
  const next = make('button', { type: 'button', class: 'main wide', onclick: () => assistant.openNext() }, 'Next most uncertain');
  const segment = make('button', { type: 'button', onclick: () => assistant.segment() }, 'Segment');
  const jump = make('button', { type: 'button', onclick: () => assistant.jump() }, 'Jump to most uncertain slice');
  const submit = make('button', { type: 'button', class: 'main wide', onclick: () => assistant.submit() }, 'Submit label');
  return {
    node: make('div', { class: 'actions' }, next, segment, jump, submit),
    update: () => {
      [next, segment, submit].forEach((button) => { button.disabled = Boolean(assistant.busy); });
      jump.disabled = Boolean(assistant.busy) || !assistant.result;
      submit.textContent = assistant.isEdited ? 'Submit label (changed)' : 'Submit label';
    },
  };
}

function message(assistant) {
  const node = make('div', { class: 'message', role: 'status', 'aria-live': 'polite' });
  return {
    node,
    update: () => {
      const { text, isError } = assistant.message;
      node.classList.toggle('error', isError);
      if (node.textContent !== text) node.textContent = text;
    },
  };
}

function heatControls(assistant) {
  const { heat } = assistant;
  const shown = make('input', { type: 'checkbox', onchange: (event) => heat.set({ isShown: event.target.checked }) });
  shown.checked = heat.isShown;
  const slider = (name, key) => {
    const output = make('output', {}, heat[key].toFixed(2));
    const input = make('input', {
      type: 'range', min: 0, max: 1, step: 0.01, value: heat[key], 'aria-label': `${name} of the uncertainty overlay`,
      oninput: (event) => {
        heat.set({ [key]: Number(event.target.value) });
        output.textContent = heat[key].toFixed(2);
      },
    });
    return make('div', { class: 'ugmcl-slider' }, make('span', {}, name), input, output);
  };
  return {
    node: make('div', {}, make('h2', {}, 'Uncertainty'),
      make('label', {}, shown, ' Show over the image'), slider('Opacity', 'opacity'), slider('From', 'threshold'),
      make('div', { class: 'scale', 'aria-hidden': 'true' }),
      make('div', { class: 'ends' }, make('span', {}, '0 sure'), make('span', {}, 'unsure 1'))),
    update: () => {},
  };
}

function worklist(assistant) {
  const title = make('h2');
  const list = make('ol', { 'aria-label': 'Worklist, the least sure first' });
  let drawn = null;
  return {
    node: make('div', {}, title, list),
    update: () => {
      title.textContent = assistant.total === null ? 'Worklist' : `Worklist: ${assistant.total} without a label`;
      const current = assistant.current?.id;
      const key = JSON.stringify([assistant.cases, current, assistant.described.size]);
      if (key === drawn) return;  // drawn again, it would lose the keyboard's place
      drawn = key;
      list.replaceChildren(...assistant.cases.map((entry) => make('li', {}, make('button', {
        type: 'button', title: entry.id, 'aria-current': entry.id === current ? 'true' : null, 'data-case': entry.id,
        onclick: () => assistant.openListed(entry),
      }, make('span', { class: 'name' }, assistant.nameOf(entry)),
      make('span', { class: 'score' }, entry.score === null ? 'not scored' : entry.score.toFixed(3))))));
    },
  };
}

function status(assistant) {
  const [model, rounds, labels, round] = ['model', 'rounds', 'labels', 'round'].map((name) => make('dd', { 'data-status': name }));
  const progress = make('progress', { max: 1, 'aria-label': 'Progress of the running round' });
  const reader = make('input', {
    type: 'text', maxlength: 100, 'aria-label': 'Your name as a reader', value: assistant.reader,
    onchange: (event) => {
      assistant.reader = event.target.value;
      event.target.value = assistant.reader;
    },
  });
  return {
    node: make('div', {}, make('h2', {}, 'Model'), make('dl', { class: 'status' },
      make('dt', {}, 'Version'), model, make('dt', {}, 'Rounds'), rounds, make('dt', {}, 'Labels'), labels,
      make('dt', {}, 'Now'), round, make('dt', {}, 'Reader'), make('dd', {}, reader)), progress),
    update: () => {
      const known = assistant.status;
      progress.hidden = known?.running?.status !== 'running';
      if (!known) return;
      model.textContent = known.version ?? 'none yet';
      rounds.textContent = String(known.rounds);
      labels.textContent = `${known.labels} of ${known.scans} scans`;
      round.textContent = nowText(known);
      const { step, steps } = known.running?.progress ?? {};
      if (steps) progress.value = step / steps;
      else progress.removeAttribute('value');
    },
  };
}

function nowText({ running, last }) {
  if (running?.status === 'queued') return 'a round is waiting';
  if (running) {
    const { step, steps, eta_s: left } = running.progress ?? {};
    const rest = left > 0 ? `, ${Math.ceil(left)} s left` : '';
    return steps ? `training, step ${step} of ${steps}${rest}` : 'training starts';
  }
  if (!last) return 'no round yet; submit a label';
  if (last.status === 'failed') return `the last round failed: ${last.reason ?? 'see the server\'s log'}`;
  if (last.status === 'done') return last.promoted ? 'waiting for labels' : `waiting; the last round was not published: ${last.reason}`;
  return 'waiting for labels';
}
