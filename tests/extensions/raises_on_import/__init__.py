"""Its import raises."""

raise RuntimeError("this pack needs a library that nobody has")
