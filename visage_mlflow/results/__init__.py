"""What studies return: frozen dataclasses that save and load themselves as JSON."""

from visage_mlflow.results.base import Result
from visage_mlflow.results.comparing import comparable
from visage_mlflow.results.comparison import Comparison, Difference
from visage_mlflow.results.evaluation import Evaluation, Response, Setup
from visage_mlflow.results.finetuning import Checkpoint, Finetuning
from visage_mlflow.results.landscape import Axis, Edges, Landscape, Mark, Point, Visage
from visage_mlflow.results.search import Check, Search, Trial
from visage_mlflow.results.trajectory import Course, Edge, Place, Trajectory, Turn

__all__ = [
    "Axis", "Check", "Checkpoint", "Comparison", "Course", "Difference", "Edge", "Edges", "Evaluation", "Finetuning",
    "Landscape", "Mark", "Place", "Point", "Response", "Result", "Search", "Setup", "Trajectory", "Trial", "Turn",
    "Visage", "comparable",
]  # fmt: skip
