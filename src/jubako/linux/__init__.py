"""L2: kernel mechanisms shared by all Linux drivers; each module stands alone and is imported where it is used."""
