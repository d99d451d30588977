"""What others do with the same work, measured in the same run: programs of their own, in environments of their own."""
