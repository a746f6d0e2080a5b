"""Several processes on one or more machines that work as one: MLX's distributed engine.

    launch      what a launcher told this process: its rank, and where the others are
    messages    what ranks say to each other beside their arrays, and the connections it goes over
    ranks       all ranks: they agree, and notice that one of them is gone
    meeting     how they meet
    joining     mlx's own group, once they have met
    launcher    `mlx.launch`, started and ended from here, and the `hosts.json` that it reads

A rank is a process with a number; rank 0 writes, prints and answers. mlx moves the arrays, over its
ring, JACCL or NCCL. What it does not do goes over one TCP connection from each rank to rank 0: to
say which machine is missing, that two have different versions, or that one has died, while the
arrays' sockets only wait.

    MachinesError(UserError)    what the user can put right, in one sentence
        LostRankError           a rank is gone while others wait for it
        TurnedAwayError         rank 0 does not take this one in, and says why
"""

from verse import UserError


class MachinesError(UserError):
    """The machines cannot work together; one sentence that says what to do."""


class LostRankError(MachinesError):
    """A rank is gone."""


class TurnedAwayError(MachinesError):
    """Rank 0 does not take this rank in; it tells the user why, so this one need not speak."""
