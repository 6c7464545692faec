"""What changes a snapshot: begin, plan, commit, verify, recheck, delete."""
