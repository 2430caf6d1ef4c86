"""A 3D Slicer that has the documented names only, keeps what is loaded, and saves as Slicer does.

`DOCUMENTED` lists, class by class, what the pages name that review_in_slicer.py refers to (Slicer 5: slicer.util,
script repository, developer guide; Qt 5: class pages). Anything else raises, so that a call which Slicer does not
have fails here and not on a reviewer's screen.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.io.slicer import STATUS, Segmentation, read_seg_nrrd

from .conftest import write_layers

DOCUMENTED = {
    "slicer": {"util", "mrmlScene", "app", "modules", "vtkMRMLLayoutNode", "vtkMRMLSliceNode"},
    "slicer.util": {"loadVolume", "loadSegmentation", "saveNode", "setSliceViewerLayers", "selectModule", "mainWindow"},
    "slicer.app": {"layoutManager"},
    "slicer.modules": {"segmenteditor"},
    "vtkMRMLScene": {"Clear"},
    "vtkMRMLLayoutNode": {"SlicerLayoutFourUpView"},
    "vtkMRMLSliceNode": {"JumpAllSlices", "CenteredJumpSlice"},
    "vtkMRMLScalarVolumeNode": {"GetDisplayNode"},
    "vtkMRMLScalarVolumeDisplayNode": {"SetAutoWindowLevel", "SetWindowLevelMinMax"},
    "vtkMRMLSegmentationNode": {
        "GetSegmentation", "GetStorageNode", "GetModifiedSinceRead", "SetReferenceImageGeometryParameterFromVolumeNode",
    },
    "vtkMRMLSegmentationStorageNode": {"SetFileName"},
    "vtkSegmentation": {"GetNumberOfSegments", "GetNthSegmentID", "GetSegment"},
    "vtkSegment": {"SetTag"},
    "qMRMLLayoutManager": {"setLayout"},
    "qSlicerSegmentEditorModule": {"widgetRepresentation"},
    "qSlicerScriptedLoadableModuleWidget": {"self"},
    "SegmentEditorWidget": {"editor"},
    "qMRMLSegmentEditorWidget": {"setSegmentationNode", "setSourceVolumeNode"},
    "qt": {
        "QDockWidget", "QWidget", "QFormLayout", "QLineEdit", "QLabel", "QPushButton", "QShortcut", "QKeySequence",
        "QSettings", "Qt",
    },
    "Qt": {"LeftDockWidgetArea"},
    "QMainWindow": {"addDockWidget"},
    "QDockWidget": {"setWidget"},
    "QWidget": set(),
    "QFormLayout": {"addRow"},
    "QLineEdit": {"text", "setText", "connect"},
    "QLabel": {"text", "setText", "setWordWrap"},
    "QPushButton": {"text", "setToolTip", "connect"},
    "QShortcut": {"setKey", "connect"},
    "QKeySequence": set(),
    "QSettings": {"value", "setValue"},
}  # fmt: skip

KEYWORDS = {
    "setSliceViewerLayers": {
        "background", "foreground", "label", "foregroundOpacity", "labelOpacity", "fit", "rotateToVolumePlane",
    },
}  # fmt: skip
"""Names of parameters, as slicer.util has them; other functions are called without."""

Handler = Callable[[], None]

SIGNALS = {"QPushButton": {"clicked()"}, "QShortcut": {"activated()"}, "QLineEdit": {"editingFinished()"}}


class Strict:
    """An object of a documented class; `has` are the names that this one answers to."""

    def __init__(self, kind: str, /, **has: Any) -> None:
        undocumented = set(has) - DOCUMENTED[kind]
        assert not undocumented, f"{kind} documents no {undocumented}"
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "has", has)

    def __getattr__(self, name: str) -> Any:
        if name in self.has:
            return self.has[name]
        raise AttributeError(f"{self.kind} documents no {name}" if name not in DOCUMENTED[self.kind] else name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self.kind}.{name} is set")


class FakeSlicer:
    """Slicer as the script sees it, and as a test plays the reviewer.

    Attributes
    ----------
    log : what was called, in order: name and arguments.
    edit : what the reviewer draws before the next save; takes and returns layers.
    """

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.edit: Callable[[Any], Any] | None = None
        self.settings: dict[str, str] = {}
        self.buttons: dict[str, Callable[[], None]] = {}
        self.shortcuts: dict[str, Callable[[], None]] = {}
        self.lines: list[Strict] = []
        self.labels: list[dict[str, str]] = []
        self.loaded: Segmentation | None = None
        self.disk_is_full = False

    def modules(self) -> dict[str, types.ModuleType]:
        """Return the modules slicer and qt."""
        return {"slicer": self._slicer(), "qt": self._qt()}  # type: ignore[dict-item]

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [entry[1:] for entry in self.log if entry[0] == name]

    def press(self, text: str) -> None:
        self.buttons[text]()

    def type_code(self, code: str) -> None:
        self.lines[0].has["text"] = code

    def type_comment(self, comment: str) -> None:
        self.lines[1].has["text"] = comment

    @property
    def case_shown(self) -> str:
        return self.labels[0]["text"]

    @property
    def message(self) -> str:
        return self.labels[1]["text"]

    def _record(self, name: str, result: Any = None) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            unknown = set(options) - KEYWORDS.get(name, set())
            assert not unknown, f"{name} has no parameter {unknown}"
            self.log.append((name, *arguments, *options.items()))
            return result

        return call

    def _slicer(self) -> Strict:
        editor = Strict(
            "qMRMLSegmentEditorWidget",
            setSegmentationNode=self._record("setSegmentationNode"),
            setSourceVolumeNode=self._record("setSourceVolumeNode"),
        )
        module_widget = Strict("SegmentEditorWidget", editor=editor)
        widget = Strict("qSlicerScriptedLoadableModuleWidget", **{"self": lambda: module_widget})
        return Strict(
            "slicer",
            util=Strict(
                "slicer.util",
                loadVolume=self._load_volume,
                loadSegmentation=self._load_segmentation,
                saveNode=self._save,
                setSliceViewerLayers=self._record("setSliceViewerLayers"),
                selectModule=self._record("selectModule"),
                mainWindow=lambda: Strict("QMainWindow", addDockWidget=self._record("addDockWidget")),
            ),
            mrmlScene=Strict("vtkMRMLScene", Clear=self._record("Clear")),
            app=Strict(
                "slicer.app",
                layoutManager=lambda: Strict("qMRMLLayoutManager", setLayout=self._record("setLayout")),
            ),
            modules=Strict(
                "slicer.modules",
                segmenteditor=Strict("qSlicerSegmentEditorModule", widgetRepresentation=lambda: widget),
            ),
            vtkMRMLLayoutNode=Strict("vtkMRMLLayoutNode", SlicerLayoutFourUpView=3),
            vtkMRMLSliceNode=Strict(
                "vtkMRMLSliceNode", JumpAllSlices=self._record("JumpAllSlices"), CenteredJumpSlice=1
            ),
        )

    def _load_volume(self, filename: str, properties: dict[str, Any] | None = None) -> Strict:
        if not Path(filename).is_file():
            raise RuntimeError(f"Failed to load node from file: {filename}")
        self.log.append(("loadVolume", filename, properties))
        display = Strict(
            "vtkMRMLScalarVolumeDisplayNode",
            SetAutoWindowLevel=self._record("SetAutoWindowLevel"),
            SetWindowLevelMinMax=self._record("SetWindowLevelMinMax"),
        )
        return Strict("vtkMRMLScalarVolumeNode", GetDisplayNode=lambda: display)

    def _load_segmentation(self, filename: str) -> Strict:
        self.log.append(("loadSegmentation", filename))
        self.loaded = read_seg_nrrd(Path(filename))
        segmentation = Strict(
            "vtkSegmentation",
            GetNumberOfSegments=lambda: len(self.loaded.segments),
            GetNthSegmentID=lambda number: self.loaded.segments[number].id,
            GetSegment=lambda id_: Strict("vtkSegment", SetTag=lambda key, value: self._tag(id_, key, value)),
        )
        return Strict(
            "vtkMRMLSegmentationNode",
            GetSegmentation=lambda: segmentation,
            GetStorageNode=lambda: Strict("vtkMRMLSegmentationStorageNode", SetFileName=self._record("SetFileName")),
            GetModifiedSinceRead=lambda: self.edit is not None,
            SetReferenceImageGeometryParameterFromVolumeNode=self._record("SetReference"),
        )

    def _tag(self, id_: str, key: str, value: str) -> None:
        assert not set("|:") & set(value), "Slicer separates tags by | and :"

        def tagged(segment: Any) -> Any:
            if segment.id != id_:
                return segment
            return (
                replace(segment, status=value) if key == STATUS else replace(segment, tags={**segment.tags, key: value})
            )

        self.loaded = replace(self.loaded, segments=tuple(map(tagged, self.loaded.segments)))

    def _save(self, node: Strict, filename: str) -> bool:
        assert node.kind == "vtkMRMLSegmentationNode"
        assert filename.endswith(".seg.nrrd")
        self.log.append(("saveNode", filename))
        if self.disk_is_full:
            Path(filename).write_bytes(b"NRRD0004\n")
            return False
        layers = self.loaded.layers if self.edit is None else self.edit(self.loaded.layers.copy())
        self.edit = None
        box = slice(1, None), slice(None), slice(1, None)  # Slicer crops
        grid = self.loaded.grid.cropped((1, 0, 1), layers[0][box].shape)
        write_layers(Path(filename), layers[(slice(None), *box)], grid, list(self.loaded.segments))
        return True

    def _qt(self) -> Strict:
        def widget(kind: str, **has: Any) -> Strict:
            return Strict(kind, **has)

        def line() -> Strict:
            made = widget("QLineEdit", text="", connect=self._connected("QLineEdit", lambda *_: None))
            made.has["setText"] = lambda text: made.has.update(text=text)
            self.lines.append(made)
            return made

        def label() -> Strict:
            has: dict[str, Any] = {"text": "", "setWordWrap": lambda _: None}
            has["setText"] = lambda text: has.update(text=text)
            self.labels.append(has)
            return widget("QLabel", **has)

        def button(text: str) -> Strict:
            return widget(
                "QPushButton",
                setToolTip=lambda _: None,
                connect=self._connected("QPushButton", lambda handler: self.buttons.update({text: handler})),
            )

        def shortcut(_: Strict) -> Strict:
            keys: list[str] = []
            return widget(
                "QShortcut",
                setKey=lambda sequence: keys.append(sequence),
                connect=self._connected("QShortcut", lambda handler: self.shortcuts.update({keys[-1]: handler})),
            )

        return Strict(
            "qt",
            QDockWidget=lambda title, parent: widget("QDockWidget", setWidget=lambda _: None),
            QWidget=lambda: widget("QWidget"),
            QFormLayout=lambda parent: widget("QFormLayout", addRow=lambda *_: None),
            QLineEdit=line,
            QLabel=label,
            QPushButton=button,
            QShortcut=shortcut,
            QKeySequence=lambda keys: keys,
            QSettings=lambda: widget("QSettings", value=self.settings.get, setValue=self.settings.__setitem__),
            Qt=Strict("Qt", LeftDockWidgetArea=1),
        )

    @staticmethod
    def _connected(
        kind: str, connect: Callable[[Callable[[], None]], Any]
    ) -> Callable[[str, Callable[[], None]], None]:
        def check(signal: str, handler: Handler) -> None:
            assert signal in SIGNALS[kind], f"{kind} has no signal {signal}"
            connect(handler)

        return check
