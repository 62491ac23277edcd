"""Runs, artifacts and models in MLflow. The only room that imports mlflow."""
