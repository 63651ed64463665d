"""Which fields of a data set the loaders look at: a public fact of each layout, whatever the data hold.

A parser has the whole file in memory; what is listed is what the loaders take from it. Everything else is dropped when
a file has been read. A test holds the DICOM list against what reading a file really asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

DICOM_IDENTIFIER = "PatientID"
DICOM_KIND = ("Modality", "NumberOfFrames")
DICOM_PIXELS = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PhotometricInterpretation", "PixelPresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "PresentationLUTShape", "PresentationLUTSequence", "ModalityLUTSequence",
    "VOILUTSequence", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
    "PixelValueTransformationSequence", "FrameVOILUTSequence", "FrameDisplayShutterSequence", "ShutterShape",
    "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge",
    "CenterOfCircularShutter", "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter", "ShutterOverlayGroup",
    "ShutterPresentationValue", "PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing",
    "FloatPixelData", "DoubleFloatPixelData", "PixelData",
)  # fmt: skip
"""What the loader itself asks a data set for in order to turn stored values into grey levels or colours."""
DICOM_DECODING = (
    "FileMetaInformationGroupLength", "TransferSyntaxUID", "LUTDescriptor", "PlanarConfiguration",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData", "AlphaPaletteColorLookupTableData",
    "PaletteColorLookupTableUID", "LUTData", "SpecificCharacterSet", "ICCProfile",
)  # fmt: skip
"""What decoding the pixels may ask for beside that."""
DICOM_FINDINGS = (
    "BurnedInAnnotation", "RecognizableVisualFeatures", "PatientIdentityRemoved", "SOPClassUID", "ConversionType",
    "PatientName", "PatientSex", "PatientBirthDate", "IssuerOfPatientID",
    "SecondaryCaptureDeviceID", "SecondaryCaptureDeviceManufacturer", "VideoImageFormatAcquired",
    "DateOfSecondaryCapture", "HardcopyCreationDeviceID", "ImageType", "FrameType", "SeriesDescription",
)  # fmt: skip
"""What the hospital's own findings are made of (`identifiers`, `persons`), beside names of elements that hold a value.
Name, sex, birth date and issuer are compared within an identifier, as digests whose key is forgotten then."""

_DICOM = (
    "DICOM: pixels with the attributes that decoding them needs",
    "DICOM: Modality, NumberOfFrames",
    "DICOM, for the hospital's own findings: names of elements that hold something, BurnedInAnnotation and its kin",
    "DICOM, for the hospital's own findings: whether name, sex, birth date and issuer agree within an identifier",
)
_NAMED = ("DICOM: PatientID, made a keyed pseudonym at once", *_DICOM)
_PICTURE = ("picture: pixels, orientation", "picture, for the hospital's own findings: names of its headers")

FIELDS: Mapping[str, tuple[str, ...]] = {
    "dicom": (*_NAMED, "labels.csv: the columns of file or patient, and of the label"),
    "rsna-ct": ("path: patient folder, made a keyed pseudonym at once", *_DICOM, "train.csv: patient_id, any_injury"),
    "rsna-pneumonia": (
        "file name: examination, made a keyed pseudonym at once",
        *_DICOM,
        "stage_2_train_labels.csv: patientId, Target",
    ),
    "eyepacs": (
        "file name: patient and eye, made a keyed pseudonym at once",
        *_PICTURE,
        "trainLabels.csv: image, level",
    ),
    "aptos": ("file name", *_PICTURE, "train.csv: id_code, diagnosis"),
    "idrid": ("file name", *_PICTURE, "table: Image name, Retinopathy grade"),
    "messidor": (
        "file name",
        *_PICTURE,
        "table: image_id, adjudicated_dr_grade",
        "pairing sheet: the two images of an examination, made a keyed pseudonym at once",
    ),
    "folders": ("folder name: label", "file name: patient, made a keyed pseudonym at once", *_PICTURE),
    "csv": ("table: the columns of file, patient and label", *_PICTURE, *_NAMED),
    "npz": ("arrays: images, labels, patient (made a keyed pseudonym at once)",),
}
"""By layout. Identifiers never leave the loader but as keyed pseudonyms."""


def fields_read(layouts: Iterable[str]) -> tuple[str, ...]:
    """What the loaders take from data sets of these layouts, each once, in a fixed order.

    Raises KeyError for a layout without a list: a new layout needs one.
    """
    return tuple(dict.fromkeys(field for layout in sorted(set(layouts)) for field in FIELDS[layout]))
