"""The entry points as `mlflow run` starts them, one thin file each; what they do is in `visage_mlflow.commands`."""
