"""Write measurements as a DICOM structured report (Comprehensive 3D SR, TID 1500 of PS3.16).

A structure whose segment is in a DICOM segmentation beside the report is a group of TID 1411 that refers to that
segment. Single lesions, which have no segment of their own, and everything else where there is no
segmentation are groups of TID 1501, tracked by an identifier.

Measured values are computed from a mask that no person checked: the report is unverified, preliminary and
says so. What is undefined, and structures that were not found, are left out, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import sr
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from medseg.errors import ReasonCode, SeriesError
from medseg.io.dicom_derived import (
    MANUFACTURER,
    Algorithm,
    concept,
    identity,
    made_from,
    name_of,
    quotable_series,
    text,
    uid,
    without_warnings,
)
from medseg.io.dicom_series import Series
from medseg.io.files import atomic_file, read_back_error
from medseg.io.terminology import category_of, side_of, type_of
from medseg.labels import Code, Label, LabelMap
from medseg.measures.measure import Measures
from medseg.text import significant
from medseg.volume import Source

SERIES_NUMBER = 7103

MILLILITRE = Code(scheme="UCUM", value="ml", meaning="milliliter")
MILLIMETRE = Code(scheme="UCUM", value="mm", meaning="millimeter")

DIAMETER = Code(scheme="IBSI", value="L0JK", meaning="Maximum 3D Diameter of a Mesh")

INTENSITIES = {
    "CT": (codes.DCM.AttenuationCoefficient, Code(scheme="UCUM", value="[hnsf'U]", meaning="Hounsfield unit")),
    "MR": (codes.cid7469.MRSignalIntensity, Code(scheme="UCUM", value="1", meaning="no units")),
}
"""What a voxel's value is by modality, and its unit. That of PET depends on the series: it is left out."""

NO_HU = {ReasonCode.HU_SUSPECT, ReasonCode.NO_RESCALE}
"""Flags of a CT whose headers don't say HU, or say something else: its intensities have no unit and are left out."""

STATISTICS = {"mean": codes.SCT.Mean, "sd": codes.SCT.StandardDeviation, "p50": codes.SCT.Median}

INCOMPLETE = Code(scheme="99MEDSEG", value="CUT", meaning="Cut by the edge of the scan")
"""The measures of such a structure hold as far as it is seen."""

Group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations


@dataclass(frozen=True, slots=True)
class Segments:
    """A DICOM segmentation in which the measured structures are.

    Attributes
    ----------
    path : the file.
    names : of the labels that are its segments 1, 2, ...
    """

    path: Path
    names: tuple[str, ...]


@without_warnings()
def write_dicom_sr(
    path: Path,
    measures: Sequence[Measures],
    labels: LabelMap,
    source: Source,
    algorithm: Algorithm,
    segments: Segments | None = None,
) -> None:
    """Write the measures of a mask as a structured report, and read it back.

    Parameters
    ----------
    path : target, ending in .dcm.
    measures : of every structure and lesion, as `medseg.measures.measure.measure_mask` gives them.
    labels : of the mask: codes and sides of the findings.
    source : the DICOM series that was segmented.
    algorithm : what made the mask.
    segments : the segmentation that the report refers to; None: there is none.

    Raises
    ------
    ScanError
        Nothing is written: `NOT_DICOM` if the scan is no DICOM series, `NO_IDENTITY` if the series lacks an
        identifier that a report must quote, `EMPTY` if nothing was found.
    OutputError
        If the file can't be written, or what was written is not what was meant.

    Notes
    -----
    UIDs follow from series and images, measures and algorithm: the same result sent twice is one object to a PACS.
    """
    series, images = quotable_series(source, "to which a report belongs")
    found = [measure for measure in measures if measure.voxels]
    if not found:
        raise SeriesError(ReasonCode.EMPTY, "nothing was found in the scan; there is nothing to report")
    seg = dcmread(segments.path, stop_before_pixels=True) if segments else None
    writer = _Writer(labels, series, images, algorithm, seg, segments.names if segments else ())
    report = writer.report(found)
    with atomic_file(path) as temporary:
        report.save_as(temporary)
        if dcmread(temporary).ContentSequence != report.ContentSequence:
            raise read_back_error(path)


@dataclass(frozen=True, slots=True)
class _Writer:
    """What all groups of a report share."""

    labels: LabelMap
    series: Series
    images: list[Dataset]
    algorithm: Algorithm
    segmentation: Dataset | None
    segments: tuple[str, ...]

    def report(self, found: Sequence[Measures]) -> sr.Comprehensive3DSR:
        """Return the report; patient and study are those of the images."""
        segmentation = str(self.segmentation and self.segmentation.SOPInstanceUID)
        name = made_from(self.images, self.algorithm, segmentation, *map(repr, found))
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=self._observer()),
            procedure_reported=codes.cid100.ImagingProcedure,
            imaging_measurements=[self._group(measure, name) for measure in found],
        )
        return sr.Comprehensive3DSR(
            evidence=[*self.images, *([self.segmentation] if self.segmentation else [])],
            content=content[0],
            device_serial_number="0",
            coding_schemes=[hd.coding_schemes.CodingSchemeIdentificationItem(INCOMPLETE.scheme, name=MANUFACTURER)],
            **identity("measurements", SERIES_NUMBER, name, self.algorithm, kind="sr "),
        )

    def _observer(self) -> sr.ObserverContext:
        return sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=uid("device", f"{self.algorithm.name}\n{self.algorithm.version}"),
                name="medseg (AI, research use)",
                manufacturer_name=MANUFACTURER,
                model_name=text(self.algorithm.name),
            ),
        )

    def _group(self, measure: Measures, report: str) -> Group:
        """Return what is said of a structure or lesion; `report` names the report.

        In another result lesion 1 may be another lesion: what is tracked is one of this report alone.
        """
        label = next(label for label in self.labels.labels if label.value == measure.value)
        name = name_of(label)
        tracked = name if measure.lesion is None else f"{name} {measure.lesion}"
        tracking = uid("tracking", f"{report}\n{label.value}\n{measure.lesion}")
        group: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(uid=tracking, identifier=tracked),
            "finding_category": concept(category_of(label)),
            "finding_type": concept(type_of(label)),
            "finding_sites": list(self._sites(label)),
            "algorithm_id": sr.AlgorithmIdentification(text(self.algorithm.name), text(self.algorithm.version)),
            "measurements": list(self._measurements(measure)),
            "qualitative_evaluations": (
                [sr.QualitativeEvaluation(concept(INCOMPLETE), codes.SCT.Yes)] if measure.incomplete else None
            ),
        }
        if self.segmentation is None or measure.lesion is not None or measure.structure not in self.segments:
            return sr.MeasurementsAndQualitativeEvaluations(**group)
        segment = sr.ReferencedSegment(
            sop_class_uid=self.segmentation.SOPClassUID,
            sop_instance_uid=self.segmentation.SOPInstanceUID,
            segment_number=self.segments.index(measure.structure) + 1,
            source_series=sr.SourceSeriesForSegmentation(self.images[0].SeriesInstanceUID),
        )
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **group)

    def _sites(self, label: Label) -> Iterator[sr.FindingSite]:
        """Yield where a finding is: the organ that a lesion lies in, with its side; or the side of an organ."""
        organ = next((other for other in self.labels.labels if other.name == label.within), label)
        side = side_of(organ)
        if organ.code and (side or organ is not label):
            yield sr.FindingSite(concept(organ.code), laterality=concept(side) if side else None)

    def _measurements(self, measure: Measures) -> Iterator[sr.Measurement]:
        yield _measurement(codes.SCT.Volume, measure.volume_ml, MILLILITRE)
        image = self._image(measure)
        lengths = (
            (codes.SCT.LongAxis, measure.long_mm, image),
            (codes.SCT.ShortAxis, measure.short_mm, image),
            (concept(DIAMETER), measure.diameter_mm, None),
        )
        for name, length, on in lengths:
            if length is not None:
                yield _measurement(name, length, MILLIMETRE, referenced_images=on)
        if self.series.modality in INTENSITIES and measure.intensity and not NO_HU & set(self.series.flags):
            name, unit = INTENSITIES[self.series.modality]
            for statistic, derivation in STATISTICS.items():
                value = getattr(measure.intensity[0], statistic)
                yield _measurement(name, value, unit, derivation=derivation)

    def _image(self, measure: Measures) -> list[sr.SourceImageForMeasurement] | None:
        """Return the image on which the diameters were measured; None if that plane was interpolated."""
        planes = np.rint(self.series.line.places).astype(int).tolist()
        if measure.slice not in planes:
            return None
        header = self.series.slices[planes.index(measure.slice)]
        frames = [header.frame + 1] if header.frames > 1 else None
        return [sr.SourceImageForMeasurement(header.sop_class, header.instance, frames)]


def _measurement(name: hd.sr.CodedConcept, value: float, unit: Code, **details: Any) -> sr.Measurement:
    return sr.Measurement(name=name, value=significant(value), unit=concept(unit), **details)
