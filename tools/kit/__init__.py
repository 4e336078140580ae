"""What the tools share: tables, charts, pages, progress, publishing, and how a launcher starts them."""
