"""Text: readers, sampling plan, splits by document group, duplicates, fixed-length token windows."""
