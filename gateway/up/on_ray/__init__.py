"""`--on ray`: instances in a Ray cluster, from a helper process. Nothing else imports ray."""
