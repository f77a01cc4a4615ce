import xml.etree.ElementTree as E, sys, collections
def load(n):
    out={}
    for c in E.parse(n).getroot().iter("testcase"):
        k=c.get("classname")+"::"+c.get("name"); s="passed"; m=""
        for x in c:
            if x.tag in("failure","error","skipped"): s=x.tag; m=(x.get("message") or "").split("\n")[0]
        out[k]=(s,m)
    return out
a,b=load("st.xml"),load("compat.xml")
den=[k for k,v in a.items() if v[0]=="passed"]
ok=[k for k in den if b.get(k,("?",))[0]=="passed"]
print(len(den), len(ok))
g=collections.defaultdict(list)
for k in den:
    if k not in ok: g[k.split("[")[0]].append((k,b.get(k)))
for name,l in g.items(): print(len(l), name.replace("tests.",""), "|", l[0][1][1][:170])
pf=collections.Counter(k.split("::")[0] for k in den); pk=collections.Counter(k.split("::")[0] for k in ok)
for f in pf: print(f, pk[f], pf[f])
