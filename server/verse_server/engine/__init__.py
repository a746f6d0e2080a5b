"""The model side of the server.

OpenBLAS comes before the first import of mlx, and leaves one core to the HTTP side.
"""

from verse import openblas

openblas.preload(spare_cores=1)
