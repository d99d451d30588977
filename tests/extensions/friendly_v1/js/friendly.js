// nothing: the tests only look whether it is served
