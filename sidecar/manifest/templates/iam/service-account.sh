gcloud iam service-accounts add-iam-policy-binding $account \
    --member=$member --role=$role
