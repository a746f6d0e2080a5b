"""The model side of the server. OpenBLAS comes before the first import of mlx."""

from verse import openblas

openblas.preload()
