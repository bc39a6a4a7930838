"""The page in the browser: its files and the policy under which a browser runs them."""

from fastapi import APIRouter


def router() -> APIRouter:
    """Routes of the page's files."""
    return APIRouter()
