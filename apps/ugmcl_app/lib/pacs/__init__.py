"""pacs: a DICOMweb server as the source of series and the receiver of results.

On floor 2, like `dicom`: the datastore that serves a PACS lives there. Needs the extra `dicom`.
"""
