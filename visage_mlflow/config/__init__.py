"""Every setting of every entry point. Light to import, so that `--help` is quick."""

from visage_mlflow.config.attack import AttackConfig, MeasureConfig
from visage_mlflow.config.compute import ComputeConfig, WorkersConfig
from visage_mlflow.config.entry_points import (
    BUDGETS,
    BenchmarkConfig,
    CompareConfig,
    EvaluateConfig,
    LandscapeConfig,
    MainConfig,
    ProjectConfig,
    VisageConfig,
)
from visage_mlflow.config.grid import LineConfig, PlaneConfig
from visage_mlflow.config.search import SearchConfig
from visage_mlflow.config.training import FinetuneConfig, ScenarioConfig

__all__ = [
    "BUDGETS",
    "AttackConfig",
    "BenchmarkConfig",
    "CompareConfig",
    "ComputeConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "LandscapeConfig",
    "LineConfig",
    "MainConfig",
    "MeasureConfig",
    "PlaneConfig",
    "ProjectConfig",
    "ScenarioConfig",
    "SearchConfig",
    "VisageConfig",
    "WorkersConfig",
]
