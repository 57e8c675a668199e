"""Pure decisions: values in, values out; time and chance are arguments."""
