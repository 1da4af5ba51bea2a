: # Tests put here what a build shall do besides.
