"""Raw data sets, as their authors publish them, to RecBole's atomic files."""
