/// What Apple declares is to stand here.
