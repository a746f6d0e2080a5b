"""The model side of the server.

OpenBLAS comes before the first import of mlx, and leaves one core to the HTTP side. numpy's own one
is called by threads that share the cores already.
"""

from verse import openblas

openblas.preload(spare_cores=1)
openblas.one_thread_in_numpy()
