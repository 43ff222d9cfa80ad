#!/bin/sh
# Works for a while, and says in the file `site` when it comes and goes.
echo in >> site
sleep 0.8
echo out >> site
