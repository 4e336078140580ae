"""What is done with a trained model: score it, let it predict, hand it on. Each is a command of `lbtrain`."""
