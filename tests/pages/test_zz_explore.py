import json, sys, time, os, traceback, random
import pytest
from tests.damage import *
from tests.pages import fabricate
from tests.pages.conftest import *  
from paraknow_core.runs import list_runs, RunFolder
from paraknow_core.paths import read_json

FILES = ("spec.yaml","status.json","events.jsonl","result.json","extraction.json","sensitivity.json","predictions.jsonl","partial.json","log.txt","process.json","stop","checkpoints","adapter","init_adapter","lock")
PAGES = ("start", "models", "sensitivity", "mapping", "train", "compare", "playground", "lessons")

def load(open_app, page, run=None):
    try:
        app = open_app(page if page!="start" else None, run)
        return None
    except BaseException as e:
        return str(e)[:100] if not isinstance(e, AssertionError) else str(e)[:1800]

@pytest.mark.parametrize("file", FILES)
def test_files(place, open_app, file, capsys):
    fabricate.store(place)
    kinds = {}
    for kind in DAMAGES:
        for st in ("done","running"):
            r = fabricate.run(place, st)
            r.file("extraction.json").write_text('{"modules": {}}'); 
            try: damage(r.file(file), kind)
            except Exception as e: print("cannot", kind, e); continue
            kinds[r.id]=(kind,st)
    bad=[]
    for page in PAGES:
        t=time.time(); p=load(open_app, page); 
        if time.time()-t>6: bad.append((page,"slow",time.time()-t))
        if p: bad.append((page, p))
    if not bad:
      for r in list(list_runs(place)):
        for page in ("train","compare","sensitivity"):
            t=time.time(); p=load(open_app,page,r.id)
            if time.time()-t>6: bad.append((page,kinds[r.id],"slow",time.time()-t))
            if p: bad.append((page,kinds[r.id],p))
    with capsys.disabled():
        print("\n=====",file,len(kinds), len(list_runs(place)), "bad", len(bad))
        for b in bad[:4]: print(b)
