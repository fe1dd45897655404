"""OpenCode as a program: its versions, temporary servers, process trees and tmux panes."""
