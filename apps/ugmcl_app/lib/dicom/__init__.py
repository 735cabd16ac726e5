"""dicom: series as volumes, and segmentations and uncertainty maps as the DICOM objects that refer to them.

It belongs to floor 2 although HTTP routes use it: the datastore that reads a PACS and the infer task that
answers `output=dicom_seg` need it, both live on this floor, and the server reaches them through the app.
Needs the extra `dicom`; nothing outside this package imports it at start.
"""
