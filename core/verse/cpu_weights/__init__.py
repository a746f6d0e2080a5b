"""The frozen base on a CPU: weights packed once for this processor, and what is multiplied by them.

mlx multiplies float32 alone at speed on a CPU, which is twice the bytes of bfloat16 and four times
those of 8 bits. Here numkong multiplies the frozen layers, and numpy does what lies between.
"""

from verse import openblas

openblas.preload()
