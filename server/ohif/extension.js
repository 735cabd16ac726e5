// The extension that brings our panel into OHIF. OHIF imports this file at run time (app-config `extensions`).

import { Assistant } from './assistant.js';
import { drawPanel } from './panel.js';
import { drawVolumesTwice } from './parametric_maps.js';

// OHIF keeps its React to itself. An element of React 18 is this plain object; the panel inside is plain DOM.
const element = (type, ref) => ({
  $$typeof: Symbol.for('react.element'), type, key: null, ref, props: {}, _owner: null,
});

// OHIF takes a panel down and puts it up again as its tabs change; what is known outlives that.
let assistant = null;

export default {
  id: '@ugmcl/extension-assist',
  // Called once, in every mode, after the extension that brings cornerstone.
  preRegistration: () => drawVolumesTwice(window.cornerstone),
  getPanelModule: ({ servicesManager, commandsManager }) => [{
    name: 'assist',
    iconName: 'tab-roi-threshold',
    iconLabel: 'UG-MCL',
    label: 'UG-MCL',
    component: () => element('div', (place) => {
      if (!place || place.dataset.drawn) return;
      place.dataset.drawn = 'true';
      assistant ??= new Assistant(servicesManager.services, commandsManager);
      drawPanel(place, assistant);
    }),
  }],
};
