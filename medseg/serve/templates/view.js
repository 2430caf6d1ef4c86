// Shows scan and mask with NiiVue: three planes and 3D; the mouse scrolls and turns.
//
// NiiVue comes as ipyniivue's Jupyter widget, which is fed by models that Python keeps. Here the models are
// plain objects: no Python is at the other end, and nothing is sent anywhere.
import widget from "./niivue.js";

const what = JSON.parse(document.getElementById("what").textContent);
const problem = document.getElementById("problem");
const view = document.getElementById("view");

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

function volume(id, part) {
  return model({
    id, name: part.name, url: new URL(part.url, location.href).href, path: {}, paired_img_path: {}, opacity: part.opacity,
    colormap: part.colormap, colormap_negative: "", colormap_type: 0, colorbar_visible: false, frame_4d: 0,
    cal_min: part.low, cal_max: part.high, colormap_label: part.lut ? { lut: part.lut, min: 0, max: part.lut.length / 4 - 1 } : null,
  });
}

async function show() {
  const volumes = {};
  what.volumes.forEach((part, number) => { volumes["volume" + number] = volume("volume" + number, part); });
  const page = model({
    opts: { sliceType: 3, multiplanarShowRender: 1, multiplanarLayout: 2, multiplanarEqualSize: true, isColorbar: false,
      dragAndDropEnabled: false, crosshairColor: [0.5, 0.8, 1, 0.6], crosshairWidth: 0.4, crosshairWidthUnit: "percent",
      isRadiologicalConvention: true, loadingText: "loading" },
    volumes: Object.keys(volumes).map((id) => "IPY_MODEL_" + id), meshes: [], height: view.clientHeight,
    background_masks_overlays: 0, draw_opacity: 0.8, overlay_outline_width: 0, overlay_alpha_shader: 1,
  }, volumes);
  await widget.initialize({ model: page });
  await widget.render({ model: page, el: view });
  document.getElementById("opacity").addEventListener("input", (event) => {
    volumes.volume1?.change("opacity", Number(event.target.value));
  });
  document.documentElement.dataset.shown = what.volumes.length;
}

show().catch((error) => { problem.textContent = "can't be shown: " + error.message; });
