"""The parts of train_demo_model.py: vocabulary, questions and network of the demo model."""
