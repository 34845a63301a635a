"""Draws what a sentence says, and says it in German and in English."""
