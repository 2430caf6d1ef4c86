// Shows scan and mask with NiiVue: three planes and 3D; the mouse scrolls and turns.
//
// NiiVue comes as ipyniivue's Jupyter widget, which is fed by models that Python keeps. Here the models are
// plain objects: no Python is at the other end, and nothing is sent anywhere.
(() => {
  const what = JSON.parse(document.getElementById("what").textContent);
  const view = document.getElementById("view");

  // A page from the disk may not import modules from there, but may make one of a text that it has.
  async function widget() {
    if (!what.niivue && !globalThis.niivueSource) throw new Error("niivue.js is not beside report.html; run medseg report");
    const address = what.niivue
      ? new URL(what.niivue, location.href).href
      : URL.createObjectURL(new Blob([globalThis.niivueSource], { type: "text/javascript" }));
    return (await import(address)).default;
  }

  function model(values, others = {}) {
    const listeners = {};
    return {
      get: (name) => values[name] ?? null,
      set: (name, value) => { values[name] = value; },
      change: (name, value) => { values[name] = value; (listeners["change:" + name] ?? []).forEach((listen) => listen()); },
      on: (event, listen) => { (listeners[event] ??= []).push(listen); },
      off: (event) => { delete listeners[event]; },
      save_changes: () => {},
      send: () => {},
      send_sync_message: () => {},
      _comm_live: false, // so that the widget does not send voxels to Python
      widget_manager: { get_model: async (id) => others[id] },
    };
  }

  function volume(id, layer) {
    const lut = layer.lut && { lut: layer.lut, min: 0, max: layer.lut.length / 4 - 1 };
    return model({
      id, name: layer.name, url: new URL(layer.url, location.href).href, path: {}, paired_img_path: {},
      opacity: lut ? what.opacity : 1, colormap: "gray", colormap_negative: "", colormap_type: 0,
      colorbar_visible: false, frame_4d: 0, cal_min: layer.low, cal_max: layer.high, colormap_label: lut,
    });
  }

  async function show() {
    const volumes = {};
    what.layers.forEach((layer, number) => { volumes["volume" + number] = volume("volume" + number, layer); });
    const page = model({
      opts: { sliceType: 3, multiplanarShowRender: 1, multiplanarLayout: 2, multiplanarEqualSize: true, isColorbar: false,
        dragAndDropEnabled: false, crosshairColor: [0.5, 0.8, 1, 0.6], crosshairWidth: 0.4, crosshairWidthUnit: "percent",
        isRadiologicalConvention: true, sagittalNoseLeft: true, loadingText: "loading" },
      volumes: Object.keys(volumes).map((id) => "IPY_MODEL_" + id), meshes: [], height: view.clientHeight,
      background_masks_overlays: 0, draw_opacity: 0.8, overlay_outline_width: 0, overlay_alpha_shader: 1,
    }, volumes);
    const { initialize, render } = await widget();
    await initialize({ model: page });
    await render({ model: page, el: view });
    document.getElementById("opacity").addEventListener("input", (event) => {
      volumes.volume1?.change("opacity", Number(event.target.value));
    });
    window.addEventListener("resize", () => page.change("height", view.clientHeight));
    document.documentElement.dataset.shown = what.layers.length;
  }

  const name = document.getElementById("case");
  name.textContent ||= decodeURIComponent(location.pathname.split("/").at(-2));
  document.title = name.textContent;
  show().catch((error) => { document.getElementById("problem").textContent = "can't be shown: " + error.message; });
})();
