// The mode "UG-MCL": OHIF's own segmentation mode with our panel in front, and Parametric Maps drawn too.
// OHIF imports this file at run time (app-config `modes`); it needs no build.

const PANEL = '@ugmcl/extension-assist.panelModule.assist';
const PMAP = '@ohif/extension-cornerstone-dicom-pmap';

export default {
  id: '@ugmcl/mode-assist',
  // Ours is not named among them: OHIF would import it by that bare name, which only a built viewer knows.
  extensionDependencies: {},
  modeFactory: async ({ loadModules }) => {
    const [segmentation, basic] = await loadModules(['@ohif/mode-segmentation', '@ohif/mode-basic']);
    const base = segmentation.modeInstance;
    const [route] = base.routes;
    const layout = route.layoutInstance;
    const pmapViewport = {
      namespace: `${PMAP}.viewportModule.dicom-pmap`,
      displaySetsToDisplay: [`${PMAP}.sopClassHandlerModule.dicom-pmap`],
    };
    return {
      ...base,
      id: '@ugmcl/mode-assist',
      routeName: 'ugmcl',
      displayName: 'UG-MCL',
      hide: false,
      // The segmentation mode's own would bring its panel to the front of ours at the first segmentation.
      onModeEnter: basic.modeInstance.onModeEnter,
      hangingProtocol: 'default',
      sopClassHandlers: [`${PMAP}.sopClassHandlerModule.dicom-pmap`, ...base.sopClassHandlers],
      routes: [{
        ...route,
        path: 'ugmcl',
        layoutInstance: {
          ...layout,
          props: {
            ...layout.props,
            rightPanels: [PANEL, ...layout.props.rightPanels],
            rightPanelClosed: false,
            viewports: [...layout.props.viewports, pmapViewport],
          },
        },
      }],
    };
  },
};
