"""Engine `guided`: the compact network that comes with rayvos, what it looks at, and how boxes or a mask sharpen it."""
