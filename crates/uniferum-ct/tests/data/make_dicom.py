"""Makes the codec_*.dcm files: the centre of CT_small.dcm in every pixel codec.

python3 -m venv v && v/bin/pip install imagecodecs pydicom && v/bin/python make_dicom.py
"""
import imagecodecs as ic
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import (ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1,
                         JPEGLSLossless, JPEGLSNearLossless, RLELossless)

source = pydicom.dcmread("CT_small.dcm")
print("sum of HU, padding kept:", int((source.pixel_array.astype(np.int64) - 1024).sum()))
centre = source.pixel_array[32:96, 32:96].copy()
assert centre.dtype == np.int16

def write(name, syntax, frame):
    out = pydicom.Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "Modality", "SliceThickness", "SeriesInstanceUID",
                    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel",
                    "PhotometricInterpretation", "PixelSpacing", "BitsAllocated", "BitsStored",
                    "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope"):
        setattr(out, keyword, getattr(source, keyword))
    out.Rows, out.Columns = centre.shape
    out.file_meta = pydicom.dataset.FileMetaDataset()
    out.file_meta.TransferSyntaxUID = syntax
    out.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
    out.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
    if syntax == ExplicitVRLittleEndian:
        out.PixelData = frame
        out["PixelData"].VR = "OW"
    else:
        out.PixelData = encapsulate([frame])
        out["PixelData"].VR = "OB"
        out["PixelData"].is_undefined_length = True
    out.save_as(f"codec_{name}.dcm", enforce_file_format=True)

patterns = centre.view(np.uint16)
write("none", ExplicitVRLittleEndian, centre.tobytes())
write("jpeg_lossless", JPEGLosslessSV1, ic.ljpeg_encode(patterns, bitspersample=16))
write("jpeg_ls", JPEGLSLossless, ic.jpegls_encode(patterns))
write("jpeg_ls_near", JPEGLSNearLossless, ic.jpegls_encode(patterns, level=3))
write("jpeg2000", JPEG2000Lossless, ic.jpeg2k_encode(centre, level=0, codecformat="j2k", reversible=True))
rle = pydicom.dcmread("codec_none.dcm")
rle.compress(RLELossless, generate_instance_uid=False)
rle.save_as("codec_rle.dcm")
