"""The commands of `hf-semicrf`, one file each: arguments in, results out.

Arguments are parsed before anything heavy is imported. No library logic lives here.
"""
