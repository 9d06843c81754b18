"""How tokens get made: caches whose lengths are arrays, sampling, speculative rounds."""
