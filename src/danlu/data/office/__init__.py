"""What Word, PowerPoint and EPUB files have in common: a zip archive of XML parts that refer to each other."""
