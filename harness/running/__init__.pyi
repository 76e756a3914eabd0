from .messages import Began as Began
from .messages import Job as Job
from .messages import Lost as Lost
from .messages import Message as Message
from .messages import Note as Note
from .messages import Opened as Opened
from .messages import Piece as Piece
from .messages import Refused as Refused
from .messages import Workers as Workers
from .messages import Working as Working
from .messages import from_bytes as from_bytes
from .messages import to_bytes as to_bytes
from .orders import work as work
from .spec import Cpus as Cpus
from .spec import Gpus as Gpus

__all__ = [
    "Began",
    "Cpus",
    "Gpus",
    "Job",
    "Lost",
    "Message",
    "Note",
    "Opened",
    "Piece",
    "Refused",
    "Workers",
    "Working",
    "from_bytes",
    "to_bytes",
    "work",
]
