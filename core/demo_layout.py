"""Where the demo images have their table and their photos, as HAM10000 has them, and the file that tells them apart."""

METADATA = "HAM10000_metadata.csv"
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
MARKER = "demo.json"
