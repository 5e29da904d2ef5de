"""What is the same in every version and is not a lesson: corpora, tokenizers, evaluation."""
