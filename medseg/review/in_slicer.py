"""Review segmentations in 3D Slicer: ``Slicer --python-script review_in_slicer.py``.

Run it from the review folder that `medseg review export` wrote; ``review_session.py`` lies beside it and decides
everything. This file only shows cases and passes clicks on. It holds no path and no name: the folder is its own.

What it calls, and where 3D Slicer 5 documents it:

* loading and saving: ``slicer.util.loadVolume``, ``loadSegmentation``, ``saveNode`` (slicer.util)
* ``vtkMRMLScene::Clear``, ``vtkMRMLSegmentationNode::SetReferenceImageGeometryParameterFromVolumeNode``
  (developer guide, script repository: segmentations)
* ``vtkSegmentation::GetNumberOfSegments``, ``GetNthSegmentID``, ``GetSegment`` (the same page), ``vtkSegment::SetTag``
* ``vtkMRMLScalarVolumeDisplayNode::SetAutoWindowLevel``, ``SetWindowLevelMinMax`` (script repository: gui)
* ``slicer.util.setSliceViewerLayers``, ``vtkMRMLSliceNode::JumpAllSlices``, ``qMRMLLayoutManager::setLayout``
  (script repository: gui)
* Segment Editor: ``slicer.modules.segmenteditor.widgetRepresentation().self().editor`` with
  ``setSegmentationNode``, ``setSourceVolumeNode`` (developer guide: segment editor)
* ``vtkMRMLStorableNode::GetModifiedSinceRead``, ``vtkMRMLStorageNode::SetFileName``
* Qt through PythonQt: ``QDockWidget``, ``QShortcut`` with ``connect("activated()", ...)`` (script repository: gui)
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.review import session as review_session
else:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    review_session = importlib.import_module("review_session")

import qt
import slicer

SHORTCUTS = {
    "previous": "Ctrl+Shift+Left",
    "next": "Ctrl+Shift+Right",
    review_session.ACCEPTED: "Ctrl+Shift+A",
    review_session.CORRECTED_STATUS: "Ctrl+Shift+C",
    review_session.REJECTED: "Ctrl+Shift+R",
    review_session.FLAGGED: "Ctrl+Shift+F",
}

BUTTONS = {
    "previous": "Previous",
    "next": "Next",
    review_session.ACCEPTED: "Accept",
    review_session.CORRECTED_STATUS: "Correct",
    review_session.REJECTED: "Reject",
    review_session.FLAGGED: "Flag",
}

HINTS = {
    "previous": "the case before",
    "next": "the case after",
    review_session.ACCEPTED: "the mask is right as it is",
    review_session.CORRECTED_STATUS: "I have corrected the mask; it is right now",
    review_session.REJECTED: "the mask is of no use, and I don't correct it",
    review_session.FLAGGED: "somebody else should look",
}

LAST_CODE = "medseg/reviewer"
"""Key under which Slicer's settings keep the code that was entered last."""


class Views:
    """The scan and segmentation of one case in Slicer's views; `shown` is the case, "" while none is there."""

    def __init__(self) -> None:
        self.shown = ""
        self.segmentation: Any = None

    def show(self, session: review_session.Session) -> None:
        """Load the current case, and look where its largest lesion or structure is."""
        case = session.current
        self.shown = ""
        slicer.mrmlScene.Clear(0)
        volume = slicer.util.loadVolume(str(session.folder / case.shown))
        for image in case.images[1:]:
            slicer.util.loadVolume(str(session.folder / image), {"show": False})
        self.segmentation = slicer.util.loadSegmentation(str(session.mask_to_show()))
        # Ctrl+S must not write over the prediction
        self.segmentation.GetStorageNode().SetFileName(str(session.work_path()))
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.util.setSliceViewerLayers(background=volume, fit=True, rotateToVolumePlane=True)
        display = volume.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*case.window)
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(self.segmentation)
        editor.setSourceVolumeNode(volume)
        centred = slicer.vtkMRMLSliceNode.CenteredJumpSlice
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *case.focus_mm, centred)
        self.shown = case.case

    def is_edited(self) -> bool:
        """Whether the segmentation may have changed since it was loaded."""
        return bool(self.shown and self.segmentation.GetModifiedSinceRead())

    def tag(self, tags: dict[str, str]) -> None:
        """Write tags into every segment; Slicer's status column shows one of them."""
        segmentation = self.segmentation.GetSegmentation()
        for number in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetSegment(segmentation.GetNthSegmentID(number))
            for key, value in tags.items():
                segment.SetTag(key, value)

    def save(self, path: Path) -> bool:
        """Save the segmentation."""
        return bool(slicer.util.saveNode(self.segmentation, str(path)))


class Panel:
    """The dock with the buttons: Previous, Next, Accept, Correct, Reject, Flag, and a comment."""

    def __init__(self, session: review_session.Session, views: Views) -> None:
        self.session = session
        self.views = views
        window = slicer.util.mainWindow()
        self.dock = qt.QDockWidget("medseg review", window)
        content = qt.QWidget()
        layout = qt.QFormLayout(content)
        self.code = qt.QLineEdit()
        self.code.setText(str(qt.QSettings().value(LAST_CODE) or ""))
        layout.addRow("Your code (no name)", self.code)
        begin = qt.QPushButton("Begin, or go on")
        begin.connect("clicked()", self.begin)
        layout.addRow(begin)
        self.case = qt.QLabel()
        self.case.setWordWrap(True)
        layout.addRow(self.case)
        self.comment = qt.QLineEdit()
        layout.addRow("Comment (stays private)", self.comment)
        self.message = qt.QLabel()
        self.message.setWordWrap(True)
        self.shortcuts = []
        for action, text in BUTTONS.items():
            layout.addRow(self._button(action, text))
            shortcut = qt.QShortcut(window)
            shortcut.setKey(qt.QKeySequence(SHORTCUTS[action]))
            shortcut.connect("activated()", self._handler(action))
            self.shortcuts.append(shortcut)
        layout.addRow(self.message)
        self.dock.setWidget(content)
        window.addDockWidget(qt.Qt.LeftDockWidgetArea, self.dock)

    def begin(self) -> None:
        """Take the code, and show the case at which that reviewer stopped."""
        self._attempt(self._begin)

    def act(self, action: str) -> None:
        """Do what a button says; whatever goes wrong is said in the panel, and nothing is lost."""
        self._attempt(lambda: self._act(action))

    def show(self) -> None:
        """Show the current case and what is known of it."""
        self.views.show(self.session)
        case = self.session.current
        decision = self.session.own_decision(case)
        lines = [
            f"Case {self.session.position + 1} of {len(self.session.cases)}: {case.case}",
            f"priority {case.priority:.2f}, {self.session.finished} of {len(self.session.cases)} done",
            *case.findings,
            f"your verdict: {decision.status}" if decision else "no verdict yet",
        ]
        self.case.setText("\n".join(lines))
        self.comment.setText(decision.comment if decision else "")

    def _begin(self) -> None:
        self._keep_edits()
        self.session.sign_in(str(self.code.text))
        qt.QSettings().setValue(LAST_CODE, self.session.reviewer)
        self.show()

    def _act(self, action: str) -> None:
        self.session.check_signed_in()
        if action in review_session.STATUSES:
            self._decide(action)
            self.session.go(1)
        else:
            self._keep_edits()
            self.session.go(1 if action == "next" else -1)
        self.show()

    def _decide(self, status: str) -> None:
        if self.views.shown != self.session.current.case:
            raise review_session.SessionError("this case could not be shown; go on with Next")
        if status in review_session.SEGMENT_STATUS:
            self.views.tag(self.session.tags(status))
        self.session.decide(status, str(self.comment.text), self.views.save)

    def _keep_edits(self) -> None:
        if self.views.is_edited():
            self.session.save_work(self.views.save)

    def _button(self, action: str, text: str) -> Any:
        button = qt.QPushButton(text)
        button.setToolTip(f"{HINTS[action]} ({SHORTCUTS[action]})")
        button.connect("clicked()", self._handler(action))
        return button

    def _handler(self, action: str) -> Any:
        return lambda: self.act(action)

    def _attempt(self, step: Any) -> None:
        try:
            step()
        except (review_session.SessionError, RuntimeError) as error:  # slicer.util raises RuntimeError
            self.message.setText(str(error))
        else:
            self.message.setText("")


def start(folder: Path) -> Panel:
    """Open the review folder; the first case is shown when the reviewer begins."""
    return Panel(review_session.Session(folder), Views())


if __name__ == "__main__":
    review = start(Path(__file__).resolve().parent)
