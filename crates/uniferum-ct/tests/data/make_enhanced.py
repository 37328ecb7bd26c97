"""Makes the enhanced_*.dcm files: six frames of an enhanced CT as another writer than the tests' own writes
them. The numbers are those of ../dicom_writer/enhanced.rs.

python3 -m venv v && v/bin/pip install imagecodecs pydicom && v/bin/python make_enhanced.py
"""
import imagecodecs as ic
import numpy as np
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (EnhancedCTImageStorage, ExplicitVRBigEndian, JPEG2000Lossless,
                         JPEGLosslessSV1, JPEGLSLossless)

COLUMNS, ROWS = 5, 4
HEIGHTS = [10.0, 0.0, 2.5, 7.5, 12.5, 5.0]


def item(**values):
    out = Dataset()
    for keyword, value in values.items():
        setattr(out, keyword, value)
    return out


def frame(height):
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return (100 * x + 10 * y + int(4 * height)).astype(np.int16)


def groups(out):
    out.SharedFunctionalGroupsSequence = Sequence([item(
        CTReconstructionSequence=Sequence([item(ConvolutionKernel="B30f")]),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(SliceThickness=3, PixelSpacing=[0.8, 0.7])]),
    )])
    out.PerFrameFunctionalGroupsSequence = Sequence([item(
        FrameContentSequence=Sequence([item(StackID="1", InStackPositionNumber=i + 1)]),
        PlanePositionSequence=Sequence([item(ImagePositionPatient=[-10, -20, height])]),
        PixelValueTransformationSequence=Sequence([item(
            RescaleIntercept=-1000, RescaleSlope=1 + i / 2, RescaleType="HU")]),
    ) for i, height in enumerate(HEIGHTS)])


def write(name, syntax, encode, extended=False):
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = syntax
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID = EnhancedCTImageStorage
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID = "1.2.3.4"
    out.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    out.Modality, out.SeriesInstanceUID = "CT", "1.2.3"
    out.NumberOfFrames, out.Rows, out.Columns = len(HEIGHTS), ROWS, COLUMNS
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 16, 16, 15, 1
    groups(out)
    frames = [encode(frame(height)) for height in HEIGHTS]
    if syntax == ExplicitVRBigEndian:
        out.PixelData = b"".join(frames)
        out["PixelData"].VR = "OW"
    else:
        if extended:
            out.PixelData, out.ExtendedOffsetTable, out.ExtendedOffsetTableLengths = \
                encapsulate_extended(frames)
        else:
            out.PixelData = encapsulate(frames, has_bot=True)
        out["PixelData"].VR = "OB"
        out["PixelData"].is_undefined_length = True
    out.save_as(f"enhanced_{name}.dcm", enforce_file_format=True)


def patterns(encode):
    return lambda pixels: encode(pixels.view(np.uint16))


write("big_endian", ExplicitVRBigEndian, lambda pixels: pixels.astype(">i2").tobytes())
write("jpeg_lossless", JPEGLosslessSV1, patterns(lambda p: ic.ljpeg_encode(p, bitspersample=16)))
write("jpeg_ls", JPEGLSLossless, patterns(ic.jpegls_encode))
write("jpeg2000", JPEG2000Lossless, lambda pixels: ic.jpeg2k_encode(
    pixels, level=0, codecformat="j2k", reversible=True), extended=True)
